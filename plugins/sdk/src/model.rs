//! Reading the contract's records, and making them for tests.

use crate::{Instance, Locality, Mapping, MeshService, Pair, Port, Service};

/// The value of a key. Lists are short, so walking one is quicker than anything cleverer.
fn find<'a>(pairs: &'a [Pair], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// Puts a pair where the contract wants it: keys are unique and sorted.
fn insert(pairs: &mut Vec<Pair>, key: String, value: String) {
    match pairs.binary_search_by(|(name, _)| name.cmp(&key)) {
        Ok(at) => pairs[at].1 = value,
        Err(at) => pairs.insert(at, (key, value)),
    }
}

// === impl Service ===

impl Service {
    /// A service of this name of the source `test`, a registry of kind `file`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            source: "test".to_owned(),
            registry: "file".to_owned(),
            datacenter: String::new(),
            partition: String::new(),
            group: String::new(),
            name: name.into(),
            meta: Vec::new(),
            ext: Vec::new(),
        }
    }

    /// The same service with one more entry of meta.
    #[must_use]
    pub fn with_meta(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        insert(&mut self.meta, key.into(), value.into());
        self
    }

    /// The value of a key of the service's meta.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<&str> {
        find(&self.meta, key)
    }

    /// A fact that only one kind of registry has.
    #[must_use]
    pub fn ext(&self, key: &str) -> Option<&str> {
        find(&self.ext, key)
    }
}

// === impl Instance ===

impl Instance {
    /// A passing instance without tags, meta or ext, and with the mapping of [`Mapping::new`] at `svc.test.mesh`.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            health: "passing".to_owned(),
            tags: Some(Vec::new()),
            meta: Some(Vec::new()),
            ext: Some(Vec::new()),
            mapping: Some(Mapping::new("svc.test.mesh")),
        }
    }

    /// The same instance with this health: `passing`, `warning`, `critical`, `maintenance` or `unknown`.
    #[must_use]
    pub fn with_health(mut self, health: impl Into<String>) -> Self {
        self.health = health.into();
        self
    }

    /// The same instance with one more tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.get_or_insert_default().push(tag.into());
        self
    }

    /// The same instance with one more entry of meta.
    #[must_use]
    pub fn with_meta(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        insert(self.meta.get_or_insert_default(), key.into(), value.into());
        self
    }

    /// The same instance with one more fact that only its kind of registry has.
    #[must_use]
    pub fn with_ext(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        insert(self.ext.get_or_insert_default(), key.into(), value.into());
        self
    }

    /// The same instance with another mapping so far.
    #[must_use]
    pub fn with_mapping(mut self, mapping: Mapping) -> Self {
        self.mapping = Some(mapping);
        self
    }

    /// The value of a key of the instance's meta. `None` too when the policy does not read it.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<&str> {
        find(self.meta.as_deref()?, key)
    }

    /// A fact that only one kind of registry has, such as `consul.node`. `None` too when the policy does not read it.
    #[must_use]
    pub fn ext(&self, key: &str) -> Option<&str> {
        find(self.ext.as_deref()?, key)
    }

    /// The tags; empty too when the policy does not read them.
    #[must_use]
    pub fn tags(&self) -> &[String] {
        self.tags.as_deref().unwrap_or_default()
    }

    /// Whether the instance carries this tag.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags().iter().any(|own| own == tag)
    }

    /// The value of the first tag that is written `key=value`.
    #[must_use]
    pub fn tag_value(&self, key: &str) -> Option<&str> {
        self.tags().iter().find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='))
    }

    /// The host in the mapping so far. `None` when the policy does not read `mapping`.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.mapping.as_ref().map(|mapping| mapping.host.as_str())
    }
}

// === impl Mapping ===

impl Mapping {
    /// A mapping to this host in namespace `mesh-registry` at 10.0.0.1, of weight 1, with neither ports nor labels.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            namespace: "mesh-registry".to_owned(),
            address: "10.0.0.1".to_owned(),
            ports: Vec::new(),
            labels: Vec::new(),
            locality: None,
            weight: 1,
            network: String::new(),
            service_account: String::new(),
            ext: Vec::new(),
        }
    }

    /// The same mapping with one more port.
    #[must_use]
    pub fn with_port(mut self, port: Port) -> Self {
        self.ports.push(port);
        self
    }

    /// The same mapping with one more label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        insert(&mut self.labels, key.into(), value.into());
        self
    }

    /// The same mapping at a locality.
    #[must_use]
    pub fn with_locality(mut self, locality: Locality) -> Self {
        self.locality = Some(locality);
        self
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        find(&self.labels, key)
    }
}

// === impl Port ===

impl Port {
    /// A port that clients dial by the number that the instance listens on.
    pub fn new(name: impl Into<String>, number: u16, protocol: impl Into<String>) -> Self {
        Self { name: name.into(), number, target: number, protocol: protocol.into() }
    }
}

// === impl MeshService ===

impl MeshService {
    /// A service of the mesh at this host in namespace `mesh-registry`, with one endpoint, no ports, labels or origins.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            namespace: "mesh-registry".to_owned(),
            ports: Vec::new(),
            endpoints: 1,
            labels: Vec::new(),
            origins: Vec::new(),
            ext: Vec::new(),
        }
    }

    /// The same service with one more label that all of its endpoints carry.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        insert(&mut self.labels, key.into(), value.into());
        self
    }

    /// The same service with one more registry service that it came from.
    #[must_use]
    pub fn with_origin(mut self, origin: Service) -> Self {
        self.origins.push(origin);
        self
    }

    /// The value of a label that every endpoint carries.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        find(&self.labels, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found() {
        let instance = Instance::new("1")
            .with_meta("b", "2")
            .with_meta("a", "1")
            .with_meta("b", "3")
            .with_tag("urlprefix-/pay")
            .with_tag("version=v2");
        assert_eq!(
            instance.meta.as_deref(),
            Some(&[("a".to_owned(), "1".to_owned()), ("b".to_owned(), "3".to_owned())][..])
        );
        assert_eq!((instance.meta("b"), instance.meta("c")), (Some("3"), None));
        assert_eq!((instance.tag_value("version"), instance.tag_value("vers")), (Some("v2"), None));
        assert!(instance.has_tag("version=v2") && !instance.has_tag("version"));
    }

    #[test]
    fn fields_that_are_not_read_are_absent() {
        let instance =
            Instance { tags: None, meta: None, ext: None, mapping: None, ..Instance::new("1") };
        assert_eq!((instance.meta("a"), instance.ext("a"), instance.host()), (None, None, None));
        assert!(instance.tags().is_empty());
    }
}
