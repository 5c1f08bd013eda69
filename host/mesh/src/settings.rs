//! What service policies set of a ServiceEntry as a whole, checked one by one.
//!
//! Each setting that Istio or Kubernetes would refuse is left out and becomes a finding; the
//! others hold. What depends on endpoints is decided in `render`.

use std::fmt;
use std::net::IpAddr;

use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mesh::{MeshService, Setting};
use landfall_core::name::{self, Hostname, Legal};
use landfall_core::text::Text;

use crate::api::{Location, MANAGED_BY_LABEL, RESERVED_PREFIX, Resolution};
use crate::validate::{self, LIST_LEN_MAX, REFUSED_ANNOTATIONS, VIRTUAL_ADDRESS_LEN_MAX};

/// The settings that hold.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// Besides the service's own host.
    pub(crate) aliases: Vec<Text>,
    pub(crate) addresses: Vec<Text>,
    pub(crate) location: Option<Location>,
    pub(crate) resolution: Option<Resolution>,
    pub(crate) export_to: Vec<Text>,
    pub(crate) subject_alt_names: Vec<Text>,
    pub(crate) labels: Vec<(Text, Text)>,
    pub(crate) annotations: Vec<(Text, Text)>,
    /// Of the object; its own where there is none.
    pub(crate) name: Option<Text>,
}

// Neither Istio nor Kubernetes has a limit here, so these are ours; the object must fit etcd.
const SUBJECT_ALT_NAME_LEN_MAX: usize = 512;
const OBJECT_LABELS_MAX: usize = 64;
const ANNOTATIONS_LEN_MAX: usize = 32 << 10;
// What Istio tells itself by annotations; it refuses more of them from release to release.
const INTERNAL_PREFIX: &str = "internal.istio.io/";
// Of a value that is shown to a person.
const SHOWN_LEN_MAX: usize = 80;

/// Reads what policies set for `service`.
pub(crate) fn read(service: &MeshService, findings: &mut Vec<Finding>) -> Settings {
    let mut settings = Settings::default();
    for setting in service.settings.iter() {
        if let Err(refusal) = settings.take(setting, service) {
            refuse(service, &refusal, findings);
        }
    }
    let alone = |entry: &Text| matches!(&**entry, "*" | "~");
    if settings.export_to.len() > 1 && settings.export_to.iter().any(alone) {
        settings.export_to.clear();
        refuse(
            service,
            &"exportTo has * or ~ beside other namespaces; they must stand alone",
            findings,
        );
    }
    if let Some((raw, name)) = name(service) {
        if name.altered {
            let shown: String = raw.chars().take(SHOWN_LEN_MAX).collect();
            findings.push(Finding::new(
                FindingCode::NameAltered,
                &service.key,
                format!("the object name {shown:?} is not legal and became {}", name.name),
            ));
        }
        settings.name = Some(name.name);
    }
    settings
}

/// The name that policies give the object of `service`, as they wrote it and as it is legal.
pub(crate) fn name(service: &MeshService) -> Option<(&str, Legal<Text>)> {
    let named = service.settings.iter().rev().find_map(|setting| match setting {
        Setting::Name(raw) if !raw.is_empty() => Some(raw.as_str()),
        _ => None,
    });
    named.map(|raw| (raw, name::object_name(raw)))
}

/// Records that something a policy set was left out.
pub(crate) fn refuse(service: &MeshService, what: &dyn fmt::Display, findings: &mut Vec<Finding>) {
    findings.push(Finding::new(
        FindingCode::Refused,
        &service.key,
        format!("{what}. It was left out; mend the service policy that sets it"),
    ));
}

struct Refusal {
    what: &'static str,
    value: String,
    why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.value.chars().take(SHOWN_LEN_MAX).collect();
        write!(f, "{} {shown:?} is not taken: {}", self.what, self.why)
    }
}

// === impl Settings ===

impl Settings {
    fn take(&mut self, setting: &Setting, service: &MeshService) -> Result<(), Refusal> {
        match setting {
            Setting::Alias(raw) => {
                let refusal = |why: String| Refusal { what: "alias", value: raw.clone(), why };
                let host = Hostname::parse(raw).map_err(|e| refusal(e.problem.to_owned()))?;
                if host != service.key.host {
                    // One place is the service's own host.
                    add(&mut self.aliases, host.text(), LIST_LEN_MAX - 1).map_err(refusal)?;
                }
                Ok(())
            }
            Setting::Address(raw) => {
                let refusal = |why: String| Refusal { what: "address", value: raw.clone(), why };
                if raw.len() > VIRTUAL_ADDRESS_LEN_MAX || !validate::is_ip_or_block(raw) {
                    return Err(refusal("it is not an IP address or CIDR block".to_owned()));
                }
                if is_everything(raw) {
                    let why = "it would take the traffic to every address";
                    return Err(refusal(why.to_owned()));
                }
                add(&mut self.addresses, &Text::from(raw.as_str()), LIST_LEN_MAX).map_err(refusal)
            }
            Setting::Location(raw) => {
                let location = match raw.as_str() {
                    "internal" => Some(Location::MeshInternal),
                    "external" => Some(Location::MeshExternal),
                    _ => None,
                };
                self.location = Some(location.ok_or_else(|| Refusal {
                    what: "location",
                    value: raw.clone(),
                    why: "it must be internal or external".to_owned(),
                })?);
                Ok(())
            }
            Setting::Resolution(raw) => {
                let resolution = match raw.as_str() {
                    "static" => Some(Resolution::Static),
                    "dns" => Some(Resolution::Dns),
                    "dns-round-robin" => Some(Resolution::DnsRoundRobin),
                    "none" => Some(Resolution::None),
                    _ => None,
                };
                self.resolution = Some(resolution.ok_or_else(|| Refusal {
                    what: "resolution",
                    value: raw.clone(),
                    why: "it must be static, dns, dns-round-robin or none".to_owned(),
                })?);
                Ok(())
            }
            Setting::ExportTo(raw) => self.take_export_to(raw, service),
            Setting::SubjectAltName(raw) => {
                let refusal =
                    |why: String| Refusal { what: "subjectAltName", value: raw.clone(), why };
                if raw.is_empty() || raw.len() > SUBJECT_ALT_NAME_LEN_MAX {
                    let why = format!("it must be 1 to {SUBJECT_ALT_NAME_LEN_MAX} bytes");
                    return Err(refusal(why));
                }
                let name = Text::from(raw.as_str());
                add(&mut self.subject_alt_names, &name, LIST_LEN_MAX).map_err(refusal)
            }
            Setting::Label(key, value) => self.take_label(key, value),
            Setting::Annotation(key, value) => self.take_annotation(key, value),
            Setting::Name(raw) if raw.is_empty() => Err(Refusal {
                what: "object name",
                value: String::new(),
                why: "it is empty".to_owned(),
            }),
            // The last one holds, see `name`.
            Setting::Name(_) => Ok(()),
        }
    }

    fn take_export_to(&mut self, raw: &str, service: &MeshService) -> Result<(), Refusal> {
        let refusal = |why: String| Refusal { what: "exportTo", value: raw.to_owned(), why };
        let own = service.key.namespace.as_str();
        // Istio takes "." and the namespace's own name for one entry, given twice.
        let entry = if raw == own { "." } else { raw };
        if !matches!(entry, "." | "*" | "~") {
            name::check_dns_label(entry)
                .map_err(|_| refusal("it is not a namespace, \".\", \"*\" or \"~\"".to_owned()))?;
        }
        add(&mut self.export_to, &Text::from(entry), LIST_LEN_MAX).map_err(refusal)
    }

    fn take_label(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        let refusal = |why: &str| Refusal {
            what: "label",
            value: format!("{key}: {value}"),
            why: why.to_owned(),
        };
        if key.starts_with(RESERVED_PREFIX) || key == MANAGED_BY_LABEL {
            return Err(refusal("Landfall itself uses the key"));
        }
        if !validate::is_label_key(key) || name::label_value(value).altered {
            return Err(refusal("it is not a legal Kubernetes label"));
        }
        if self.labels.len() >= OBJECT_LABELS_MAX {
            return Err(refusal("there are too many of them"));
        }
        self.labels.push((Text::from(key), Text::from(value)));
        Ok(())
    }

    fn take_annotation(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        let refusal =
            |why: &str| Refusal { what: "annotation", value: key.to_owned(), why: why.to_owned() };
        if key.starts_with(RESERVED_PREFIX) {
            return Err(refusal("Landfall itself uses the key"));
        }
        if !validate::is_label_key(key) {
            return Err(refusal("its key is not legal for Kubernetes"));
        }
        if key.starts_with(INTERNAL_PREFIX) || REFUSED_ANNOTATIONS.contains(&key) {
            return Err(refusal("Istio refuses whatever carries it"));
        }
        let len: usize = self.annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
        if len + key.len() + value.len() > ANNOTATIONS_LEN_MAX {
            return Err(refusal("all annotations together are too long"));
        }
        self.annotations.push((Text::from(key), Text::from(value)));
        Ok(())
    }
}

/// Whether the address or block `raw` stands for all addresses.
fn is_everything(raw: &str) -> bool {
    let (ip, bits) = raw.split_once('/').unwrap_or((raw, ""));
    bits == "0" || ip.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified())
}

/// Adds `value` unless it is there.
fn add(list: &mut Vec<Text>, value: &Text, len_max: usize) -> Result<(), String> {
    if list.contains(value) {
        return Ok(());
    }
    if list.len() >= len_max {
        return Err(format!("there are more than {len_max}"));
    }
    list.push(Text::clone(value));
    Ok(())
}
