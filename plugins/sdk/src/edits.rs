//! Lists of edits, and the verdicts made of them.

use crate::{Edit, Locality, Port, Verdict};

/// Changes to an instance's mapping, in order. Of several that set one thing the last holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits(Vec<Edit>);

// === impl Edits ===

impl Edits {
    /// No change.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Publishes under this host name: lower-case DNS labels, at most 253 characters.
    #[must_use]
    pub fn host(self, host: impl Into<String>) -> Self {
        self.with(Edit::Host(host.into()))
    }

    /// Publishes in this Kubernetes namespace.
    #[must_use]
    pub fn namespace(self, namespace: impl Into<String>) -> Self {
        self.with(Edit::Namespace(namespace.into()))
    }

    /// Sends clients to this IP address or DNS name.
    #[must_use]
    pub fn address(self, address: impl Into<String>) -> Self {
        self.with(Edit::Address(address.into()))
    }

    /// Replaces all ports.
    #[must_use]
    pub fn ports(self, ports: impl IntoIterator<Item = Port>) -> Self {
        self.with(Edit::Ports(ports.into_iter().collect()))
    }

    /// Sets a label. A part that is not legal in Kubernetes is altered and reported.
    #[must_use]
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(Edit::Label((key.into(), value.into())))
    }

    /// Removes a label, if it is there.
    #[must_use]
    pub fn remove_label(self, key: impl Into<String>) -> Self {
        self.with(Edit::RemoveLabel(key.into()))
    }

    /// Sets where the instance runs. Zone and subzone may be empty.
    #[must_use]
    pub fn locality(
        self,
        region: impl Into<String>,
        zone: impl Into<String>,
        subzone: impl Into<String>,
    ) -> Self {
        self.with(Edit::Locality(Locality {
            region: region.into(),
            zone: zone.into(),
            subzone: subzone.into(),
        }))
    }

    /// Sets the share of requests relative to the service's other endpoints: 1 to 65535, others are refused.
    #[must_use]
    pub fn weight(self, weight: u32) -> Self {
        self.with(Edit::Weight(weight))
    }

    /// Sets the mesh network that the address belongs to.
    #[must_use]
    pub fn network(self, network: impl Into<String>) -> Self {
        self.with(Edit::Network(network.into()))
    }

    /// Sets the identity that the instance presents.
    #[must_use]
    pub fn service_account(self, account: impl Into<String>) -> Self {
        self.with(Edit::ServiceAccount(account.into()))
    }

    /// Adds any edit.
    #[must_use]
    pub fn with(mut self, edit: Edit) -> Self {
        self.0.push(edit);
        self
    }

    /// Adds any edit, in place.
    pub fn push(&mut self, edit: Edit) {
        self.0.push(edit);
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The edits so far, the last one last.
    #[must_use]
    pub fn as_slice(&self) -> &[Edit] {
        &self.0
    }
}

impl Extend<Edit> for Edits {
    fn extend<I: IntoIterator<Item = Edit>>(&mut self, edits: I) {
        self.0.extend(edits);
    }
}

impl From<Edits> for Vec<Edit> {
    fn from(edits: Edits) -> Self {
        edits.0
    }
}

/// No edits are `keep`.
impl From<Edits> for Verdict {
    fn from(edits: Edits) -> Self {
        if edits.is_empty() { Self::Keep } else { Self::Edit(edits.0) }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Does not publish the instance. The reason is shown to operators and counted, so it is a short constant phrase.
    pub fn drop(reason: impl Into<String>) -> Self {
        Self::Drop(reason.into())
    }

    /// Publishes the instance once per list of edits, for example under two hosts.
    pub fn split(branches: impl IntoIterator<Item = Edits>) -> Self {
        Self::Split(branches.into_iter().map(Vec::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_become_the_smallest_verdict() {
        assert_eq!(Verdict::from(Edits::new()), Verdict::Keep);
        let edits = Edits::new().host("a.b").label("x", "y");
        assert_eq!(
            Verdict::from(edits),
            Verdict::Edit(vec![
                Edit::Host("a.b".to_owned()),
                Edit::Label(("x".to_owned(), "y".to_owned()))
            ]),
        );
        assert_eq!(
            Verdict::split([Edits::new(), Edits::new().weight(2)]),
            Verdict::Split(vec![vec![], vec![Edit::Weight(2)]]),
        );
    }
}
