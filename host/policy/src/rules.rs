//! Which policies decide, for which services, in which order.

use std::fmt;
use std::sync::Arc;

use landfall_core::decision::RulesMark;
use landfall_core::defaults::Defaults;
use landfall_core::pattern::Selector;
use landfall_core::registry::ServiceId;
use landfall_core::text::Text;

use crate::artifact;
use crate::revision::Revision;

/// A policy and the services it is for.
#[derive(Clone)]
pub struct Link {
    /// The policy.
    pub revision: Arc<Revision>,
    /// The services it is for.
    pub selector: Selector,
}

/// Everything that decisions follow from: the defaults, and the policies in order, of which each
/// sees the mapping as the one before left it. Immutable; a change makes new rules.
#[derive(Debug)]
pub struct Rules {
    defaults: Defaults,
    links: Vec<Link>,
    mark: RulesMark,
}

// === impl Link ===

impl Link {
    /// Whether the policy is for this service.
    #[must_use]
    pub fn matches(&self, id: &ServiceId) -> bool {
        self.selector.matches(id)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revision, selector } = self;
        // The name too: decisions carry it.
        write!(f, "{:?} {} {selector:?}", revision.name(), revision.digest())
    }
}

// === impl Rules ===

impl Rules {
    /// Rules of these defaults and policies.
    #[must_use]
    pub fn new(defaults: Defaults, links: Vec<Link>) -> Arc<Self> {
        let text = format!("{defaults:?} {links:?}");
        let mark = RulesMark(Text::from(artifact::digest(&[text.as_bytes()])));
        Arc::new(Self { defaults, links, mark })
    }

    /// Equal for equal rules.
    #[must_use]
    pub fn mark(&self) -> &RulesMark {
        &self.mark
    }

    /// The mapping before any policy.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// The policies in order.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }
}
