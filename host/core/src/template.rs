//! Host names, namespaces and labels made from what a registry says, before any policy.

use std::fmt;

use crate::name;
use crate::registry::{Instance, Service, ServiceId};
use crate::text::Text;

/// A text with variables, such as `{service}.{source}.mesh`.
///
/// In a host name each variable becomes one DNS label: what is legal stays, anything else is
/// altered injectively (see [`name::dns_label`]), so two services of a source never share a host
/// made from `{service}` unnoticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    Source,
    Service,
    Group,
    Datacenter,
    Partition,
    /// Of the instance, else of the service.
    Meta(String),
}

/// A template was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace without its partner.
    #[error("a brace of {0:?} has no partner")]
    Brace(String),
    /// No such variable.
    #[error(
        "{0:?} is not a variable; there are {{service}}, {{source}}, {{group}}, {{datacenter}}, \
         {{partition}} and {{meta.KEY}}"
    )]
    Variable(String),
}

impl Template {
    /// Parses `raw`.
    ///
    /// # Errors
    /// Unpaired braces and unknown variables.
    pub fn parse(raw: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = raw;
        while let Some(at) = rest.find(['{', '}']) {
            let brace = || TemplateError::Brace(raw.to_owned());
            let (literal, tail) = rest.split_at(at);
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let (word, tail) =
                tail.strip_prefix('{').and_then(|t| t.split_once('}')).ok_or_else(brace)?;
            parts.push(Part::Variable(Variable::parse(word)?));
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Whether it names facts of single instances.
    #[must_use]
    pub fn needs_instance(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Variable(Variable::Meta(_))))
    }

    /// The text with `x` for every variable: whether that is legal says whether the rest of it is.
    #[must_use]
    pub fn sample(&self) -> String {
        let x = Text::from("x");
        self.render(|_| Some(Text::clone(&x)))
    }

    /// The text with every variable made a DNS label; labels that would be empty are left out.
    /// `altered` is set when a value had to be altered.
    #[must_use]
    pub fn host(
        &self,
        id: &ServiceId,
        service: &Service,
        instance: Option<&Instance>,
        altered: &mut bool,
    ) -> String {
        let text = self.render(|variable| {
            let raw = variable.value(id, service, instance)?;
            let legal = name::dns_label(raw);
            *altered |= legal.altered;
            Some(legal.name)
        });
        without_empty_labels(&text)
    }

    /// The host name with `x` for every variable.
    #[must_use]
    pub fn sample_host(&self) -> String {
        without_empty_labels(&self.sample())
    }

    /// The text with every variable as the registry has it.
    #[must_use]
    pub fn text(&self, id: &ServiceId, service: &Service, instance: Option<&Instance>) -> String {
        self.render(|variable| variable.value(id, service, instance).cloned())
    }

    fn render(&self, mut value: impl FnMut(&Variable) -> Option<Text>) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Variable(variable) => {
                    if let Some(value) = value(variable) {
                        text.push_str(&value);
                    }
                }
            }
        }
        text
    }
}

fn without_empty_labels(host: &str) -> String {
    let labels: Vec<&str> = host.split('.').filter(|label| !label.is_empty()).collect();
    labels.join(".")
}

// === impl Variable ===

impl Variable {
    fn parse(word: &str) -> Result<Self, TemplateError> {
        Ok(match word {
            "source" => Self::Source,
            "service" => Self::Service,
            "group" => Self::Group,
            "datacenter" => Self::Datacenter,
            "partition" => Self::Partition,
            _ => match word.strip_prefix("meta.") {
                Some(key) if !key.is_empty() => Self::Meta(key.to_owned()),
                _ => return Err(TemplateError::Variable(word.to_owned())),
            },
        })
    }

    /// `None` when empty or missing. A service's name is never left out, though it may be empty:
    /// without it the service would take the place of its parent.
    fn value<'a>(
        &self,
        id: &'a ServiceId,
        service: &'a Service,
        instance: Option<&'a Instance>,
    ) -> Option<&'a Text> {
        let value = match self {
            Self::Source => Some(id.source.text()),
            Self::Service => return Some(&id.key.name),
            Self::Group => Some(&id.key.group),
            Self::Datacenter => Some(&id.key.datacenter),
            Self::Partition => Some(&id.key.partition),
            Self::Meta(key) => {
                instance.and_then(|i| i.meta.get(key)).or_else(|| service.meta.get(key))
            }
        };
        value.filter(|text| !text.is_empty())
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Literal(literal) => f.write_str(literal)?,
                Part::Variable(Variable::Source) => f.write_str("{source}")?,
                Part::Variable(Variable::Service) => f.write_str("{service}")?,
                Part::Variable(Variable::Group) => f.write_str("{group}")?,
                Part::Variable(Variable::Datacenter) => f.write_str("{datacenter}")?,
                Part::Variable(Variable::Partition) => f.write_str("{partition}")?,
                Part::Variable(Variable::Meta(key)) => write!(f, "{{meta.{key}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_without_a_name_has_a_host_of_its_own() {
        let source = crate::registry::SourceName::parse("files").unwrap();
        let id = ServiceId { source, key: crate::registry::ServiceKey::default() };
        let empty = || crate::pairs::Pairs::default();
        let (service, _) = Service::new(id.key.clone(), empty(), empty(), Vec::new());
        let mut altered = false;
        let template = Template::parse("{group}.{service}.{source}.mesh").unwrap();
        let host = template.host(&id, &service, None, &mut altered);
        assert!(host.starts_with("x-") && host.ends_with(".files.mesh"), "{host}");
        assert!(altered);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        assert!(Template::parse("{service").is_err());
        assert!(Template::parse("service}").is_err());
        assert!(Template::parse("{servce}").is_err());
        assert!(Template::parse("{meta.}").is_err());
        let raw = "{service}.{meta.a.b}-{source}.mesh";
        assert_eq!(Template::parse(raw).map(|t| t.to_string()), Ok(raw.to_owned()));
    }
}
