//! Texts with places that an instance's data fills: `{meta.version|dns}.{host}`.

use std::borrow::Cow;

use landfall_policy::{Edit, Edits, Instance, Mapping, Port, Service, names, warn};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A text in which `{field}` stands for a piece of data, `{field|filter|filter}` for one that is converted, and `{{` and
/// `}}` for the brackets themselves.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String")]
pub(crate) struct Template(#[cfg_attr(test, schemars(with = "String"))] Vec<Part>);

/// A number from 1 to 65535, or a template that gives one.
#[derive(Clone, Debug)]
pub(crate) enum Number {
    Literal(u16),
    Template(Template),
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Place { field: Field, filters: Vec<Filter> },
}

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Source,
    Registry,
    Datacenter,
    Partition,
    Group,
    Service,
    ServiceMeta(String),
    Id,
    Health,
    Tag(String),
    Meta(String),
    Ext(String),
    Host,
    Namespace,
    Address,
    Label(String),
}

#[derive(Clone, Debug)]
enum Filter {
    /// In lower case.
    Lower,
    /// As one part of a host name.
    Dns,
    /// As the value of a label.
    Label,
    /// Up to the first dot.
    First,
    /// This text where there is nothing.
    Or(String),
}

/// What templates are filled from, and what rules have changed so far.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) service: &'a Service,
    pub(crate) instance: &'a Instance,
    pub(crate) edits: Edits,
}

// === impl Draft ===

impl<'a> Draft<'a> {
    pub(crate) fn new(service: &'a Service, instance: &'a Instance) -> Self {
        Self { service, instance, edits: Edits::new() }
    }

    /// The ports so far.
    pub(crate) fn ports(&self) -> &[Port] {
        self.find(|edit| match edit {
            Edit::Ports(ports) => Some(ports.as_slice()),
            _ => None,
        })
        .or(self.mapping().map(|mapping| mapping.ports.as_slice()))
        .unwrap_or_default()
    }

    fn mapping(&self) -> Option<&'a Mapping> {
        self.instance.mapping.as_ref()
    }

    /// The last edit that sets a thing, for it is the one that holds.
    fn find<'b, T>(&'b self, pick: impl Fn(&'b Edit) -> Option<T>) -> Option<T> {
        self.edits.as_slice().iter().rev().find_map(pick)
    }

    fn label(&self, key: &str) -> Option<&str> {
        let edited = self.find(|edit| match edit {
            Edit::Label((name, value)) if name == key => Some(Some(value.as_str())),
            Edit::RemoveLabel(name) if name == key => Some(None),
            _ => None,
        });
        match edited {
            Some(label) => label,
            None => self.mapping()?.label(key),
        }
    }

    /// The data of a field; empty data is no data.
    fn get(&self, field: &Field) -> Option<&str> {
        let (service, instance) = (self.service, self.instance);
        let text = match field {
            Field::Source => &service.source,
            Field::Registry => &service.registry,
            Field::Datacenter => &service.datacenter,
            Field::Partition => &service.partition,
            Field::Group => &service.group,
            Field::Service => &service.name,
            Field::ServiceMeta(key) => service.meta(key)?,
            Field::Id => &instance.id,
            Field::Health => &instance.health,
            Field::Tag(key) => instance.tag_value(key)?,
            Field::Meta(key) => instance.meta(key)?,
            Field::Ext(key) => instance.ext(key)?,
            Field::Host => self
                .find(|edit| if let Edit::Host(host) = edit { Some(host.as_str()) } else { None })
                .or(self.mapping().map(|mapping| mapping.host.as_str()))?,
            Field::Namespace => self
                .find(|edit| {
                    if let Edit::Namespace(namespace) = edit {
                        Some(namespace.as_str())
                    } else {
                        None
                    }
                })
                .or(self.mapping().map(|mapping| mapping.namespace.as_str()))?,
            Field::Address => {
                self.find(|edit| {
                    if let Edit::Address(address) = edit { Some(address.as_str()) } else { None }
                })
                .or(self.mapping().map(|mapping| mapping.address.as_str()))?
            }
            Field::Label(key) => self.label(key)?,
        };
        (!text.is_empty()).then_some(text)
    }
}

// === impl Template ===

impl Template {
    /// The text, or none when a field has no data and no `or`.
    pub(crate) fn fill(&self, draft: &Draft<'_>) -> Option<String> {
        // Most are one literal or one place.
        if let [part] = self.0.as_slice() {
            return part.fill(draft).map(Cow::into_owned);
        }
        let mut text = String::new();
        for part in &self.0 {
            text.push_str(&part.fill(draft)?);
        }
        Some(text)
    }

    /// The text, if no data can change it.
    pub(crate) fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Calls back with each instance field that is read, as `descriptor.reads` names them.
    pub(crate) fn reads(&self, read: &mut dyn FnMut(String)) {
        for part in &self.0 {
            let Part::Place { field, .. } = part else { continue };
            match field {
                Field::Tag(_) => read("tags".to_owned()),
                Field::Meta(key) => read(format!("meta/{key}")),
                Field::Ext(key) => read(format!("ext/{key}")),
                Field::Host | Field::Namespace | Field::Address | Field::Label(_) => {
                    read("mapping".to_owned())
                }
                Field::Source
                | Field::Registry
                | Field::Datacenter
                | Field::Partition
                | Field::Group
                | Field::Service
                | Field::ServiceMeta(_)
                | Field::Id
                | Field::Health => (),
            }
        }
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let bracket = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(bracket) {
                literal.push_str(bracket);
                rest = after;
                continue;
            }
            if bracket == "}" {
                return Err("has a } without a {; write }} for the bracket itself".to_owned());
            }
            let Some(end) = rest.find('}') else {
                return Err("has a { without a }; write {{ for the bracket itself".to_owned());
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::parse(&rest[..end])?);
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }
}

// === impl Part ===

impl Part {
    /// Reads what stands between brackets.
    fn parse(place: &str) -> Result<Self, String> {
        let mut words = place.split('|');
        let field = Field::parse(words.next().unwrap_or_default())?;
        Ok(Self::Place { field, filters: words.map(Filter::parse).collect::<Result<_, _>>()? })
    }

    fn fill<'b>(&'b self, draft: &'b Draft<'_>) -> Option<Cow<'b, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Place { field, filters } => filters
                .iter()
                .fold(draft.get(field).map(Cow::Borrowed), |text, filter| filter.apply(text))
                .filter(|text| !text.is_empty()),
        }
    }
}

// === impl Field ===

impl Field {
    fn parse(name: &str) -> Result<Self, String> {
        let with_key = name.split_once('.').filter(|(_, key)| !key.is_empty());
        Ok(match (name, with_key) {
            ("source", _) => Self::Source,
            ("registry", _) => Self::Registry,
            ("datacenter", _) => Self::Datacenter,
            ("partition", _) => Self::Partition,
            ("group", _) => Self::Group,
            ("service", _) => Self::Service,
            ("id", _) => Self::Id,
            ("health", _) => Self::Health,
            ("host", _) => Self::Host,
            ("namespace", _) => Self::Namespace,
            ("address", _) => Self::Address,
            (_, Some(("service", key))) if key.len() > 5 && key.starts_with("meta.") => {
                Self::ServiceMeta(key["meta.".len()..].to_owned())
            }
            (_, Some(("tag", key))) => Self::Tag(key.to_owned()),
            (_, Some(("meta", key))) => Self::Meta(key.to_owned()),
            (_, Some(("ext", key))) => Self::Ext(key.to_owned()),
            (_, Some(("label", key))) => Self::Label(key.to_owned()),
            _ => {
                return Err(format!(
                    "has no field `{name}`; there are source, registry, datacenter, partition, group, service, \
                     service.meta.KEY, id, health, tag.KEY, meta.KEY, ext.KEY, host, namespace, address and label.KEY"
                ));
            }
        })
    }
}

// === impl Filter ===

impl Filter {
    fn parse(name: &str) -> Result<Self, String> {
        match (name, name.split_once(':')) {
            ("lower", _) => Ok(Self::Lower),
            ("dns", _) => Ok(Self::Dns),
            ("label", _) => Ok(Self::Label),
            ("first", _) => Ok(Self::First),
            (_, Some(("or", text))) => Ok(Self::Or(text.to_owned())),
            _ => Err(format!(
                "has no filter `{name}`; there are lower, dns, label, first and or:TEXT"
            )),
        }
    }

    fn apply<'b>(&'b self, text: Option<Cow<'b, str>>) -> Option<Cow<'b, str>> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return if let Self::Or(default) = self { Some(Cow::Borrowed(default)) } else { None };
        };
        Some(match self {
            Self::Or(_) => text,
            Self::Lower => Cow::Owned(text.to_lowercase()),
            Self::Dns => Cow::Owned(names::dns_label(&text).into_owned()),
            Self::Label => Cow::Owned(names::label_value(&text).into_owned()),
            Self::First => match text.split_once('.') {
                Some((first, _)) => Cow::Owned(first.to_owned()),
                None => text,
            },
        })
    }
}

// === impl Number ===

impl Number {
    /// The number; none when a field has no data, or when the text is no number from 1 to 65535, which is logged.
    pub(crate) fn fill(&self, draft: &Draft<'_>) -> Option<u16> {
        let template = match self {
            Self::Literal(number) => return Some(*number),
            Self::Template(template) => template,
        };
        let text = template.fill(draft)?;
        let number = text.parse().ok().filter(|number| *number != 0);
        if number.is_none() {
            let (service, id) = (&draft.service.name, &draft.instance.id);
            warn!("{text:?} of instance {id} of {service} is not a number from 1 to 65535");
        }
        number
    }

    /// As [`Template::reads`].
    pub(crate) fn reads(&self, read: &mut dyn FnMut(String)) {
        if let Self::Template(template) = self {
            template.reads(read);
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a number from 1 to 65535, or a template of one")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
                match u16::try_from(number) {
                    Ok(number) if number != 0 => Ok(Number::Literal(number)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Unsigned(number), &self)),
                }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                let template = Template::try_from(text.to_owned()).map_err(E::custom)?;
                match template.literal() {
                    Some(_) => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                    None => Ok(Number::Template(template)),
                }
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Number {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Number")
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A number from 1 to 65535, or a template that gives one.",
            "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, { "type": "string", "pattern": "\\{" }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance::new("pay-1")
            .with_meta("version", "V2.1")
            .with_meta("app.kubernetes.io/zone", "eu-1a")
            .with_meta("empty", "")
            .with_tag("env=prod")
            .with_mapping(Mapping::new("pay.dc1.mesh").with_label("team", "a"))
    }

    #[track_caller]
    fn check(template: &str, want: Option<&str>) {
        let (service, instance) = (Service::new("PAY_SVC").with_meta("team", "b"), instance());
        let template = Template::try_from(template.to_owned()).unwrap();
        assert_eq!(template.fill(&Draft::new(&service, &instance)).as_deref(), want);
    }

    #[test]
    fn templates_are_filled() {
        check("", Some(""));
        check("a.b", Some("a.b"));
        check("{{{service}}}", Some("{PAY_SVC}"));
        check("{service|lower}.{source}.{health}", Some("pay_svc.test.passing"));
        check("{meta.version|dns}.{host}", Some("v2-1.pay.dc1.mesh"));
        check("{meta.version|first}", Some("V2"));
        check("{meta.app.kubernetes.io/zone}", Some("eu-1a"));
        check("{tag.env}/{service.meta.team}/{label.team}", Some("prod/b/a"));
        check("x-{meta.missing}", None);
        check("{meta.empty}", None);
        check("{meta.missing|or:stable}-{datacenter|or:}", None);
        check("{meta.missing|or:A B|label}", Some("A-B"));
    }

    #[test]
    fn templates_see_what_earlier_rules_changed() {
        let (service, instance) = (Service::new("pay"), instance());
        let mut draft = Draft::new(&service, &instance);
        draft.edits =
            Edits::new().host("a").host("b").label("team", "c").label("x", "y").remove_label("x");
        let fill = |text: &str| Template::try_from(text.to_owned()).unwrap().fill(&draft);
        assert_eq!(
            fill("{host}/{label.team}/{label.x|or:none}/{address}").as_deref(),
            Some("b/c/none/10.0.0.1")
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("{", "{ without a }"),
            ("}", "} without a {"),
            ("{metaversion}", "no field `metaversion`"),
            ("{meta.}", "no field `meta.`"),
            ("{service.meta.}", "no field `service.meta.`"),
            ("{host|upper}", "no filter `upper`"),
        ] {
            let error = Template::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
