//! Things a person should know. They stop nothing.

use std::fmt;

use crate::text::OneLine;

/// Most bytes of what a finding is about, and of what it says.
pub const PART_LEN_MAX: usize = 4 << 10;

/// Something a person should know: a conflict, an illegal name, a foreign object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What kind of thing it is.
    pub code: FindingCode,
    /// What it is about: a host, an instance, an object.
    pub subject: String,
    /// What is so and what was done about it, for a person.
    pub message: String,
}

/// The closed set of findings; fit for a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingCode {
    /// An instance that cannot be read or published as registered.
    MalformedInstance,
    /// Two instances of a service with one identifier.
    DuplicateInstance,
    /// A service that is listed in several places; its instances were joined.
    ServiceTwice,
    /// A name that Kubernetes or Istio refuses; it was altered.
    NameAltered,
    /// Several services of registries claim one host.
    HostShared,
    /// One port name with several numbers or protocols, or one number with several names.
    PortConflict,
    /// Endpoints of one host that Istio cannot serve together.
    EndpointConflict,
    /// Something Istio refuses; it was left out.
    Refused,
    /// An object of somebody else stands where one of ours should be.
    ForeignObject,
    /// A policy failed an instance.
    PolicyFault,
}

impl Finding {
    /// A finding about `subject`. Both are cut after [`PART_LEN_MAX`]: names are of any length.
    #[must_use]
    pub fn new(code: FindingCode, subject: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { code, subject: cut(subject.to_string()), message: cut(message.into()) }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > PART_LEN_MAX {
        text.truncate(text.floor_char_boundary(PART_LEN_MAX));
        text.push('…');
    }
    text
}

impl FindingCode {
    /// The word for logs, metrics and documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MalformedInstance => "malformed_instance",
            Self::DuplicateInstance => "duplicate_instance",
            Self::ServiceTwice => "service_twice",
            Self::NameAltered => "name_altered",
            Self::HostShared => "host_shared",
            Self::PortConflict => "port_conflict",
            Self::EndpointConflict => "endpoint_conflict",
            Self::Refused => "refused",
            Self::ForeignObject => "foreign_object",
            Self::PolicyFault => "policy_fault",
        }
    }
}

/// On one line: both parts are made of names that are anybody's.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subject, message) = (OneLine(&self.subject), OneLine(&self.message));
        write!(f, "{} {subject}: {message}", self.code.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_make_a_finding_look_like_two() {
        let finding =
            Finding::new(FindingCode::Refused, "a\nrefused b: c", "named \u{1b}[31ma; left out");
        let shown = r"refused a\nrefused b: c: named \u{1b}[31ma; left out";
        assert_eq!(finding.to_string(), shown);
    }

    #[test]
    fn names_of_any_length_are_cut() {
        let long = "ä".repeat(PART_LEN_MAX);
        let finding = Finding::new(FindingCode::NameAltered, &long, long.as_str());
        assert_eq!(finding.subject.len(), PART_LEN_MAX + '…'.len_utf8());
        assert!(finding.message.ends_with('…'));
        assert_eq!(Finding::new(FindingCode::NameAltered, "a", "b").subject, "a");
    }
}
