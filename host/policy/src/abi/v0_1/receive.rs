//! What comes out of a call.

use landfall_core::mapping::{Edit, PortEdit, Verdict};
use landfall_core::mesh::Setting;
use landfall_core::registry::Locality;
use landfall_core::text::Interner;

use super::model;
use crate::abi::{NAME_LEN_MAX, Settings, UnknownVerdict, Verdicts};
use crate::fault::cut;

pub(super) fn verdicts(answer: Vec<model::Verdict>) -> Verdicts {
    let mut reader = Reader::default();
    let mut unknown = Vec::new();
    let of = |(index, verdict)| {
        let verdict = reader.verdict(verdict);
        unknown.extend(reader.unknown.drain(..).map(|name| (index, name)));
        verdict
    };
    let values = answer.into_iter().enumerate().map(of).collect();
    Verdicts { values, unknown }
}

pub(super) fn settings(answer: Vec<model::Setting>) -> Settings {
    let mut reader = Reader::default();
    let values = answer.into_iter().filter_map(|setting| reader.setting(setting)).collect();
    Settings { values, unknown: reader.unknown }
}

#[derive(Default)]
struct Reader {
    interner: Interner,
    /// Names of edits or settings that were left out of what is being read; each once.
    unknown: Vec<String>,
}

/// Of one verdict, or of the settings of one service. A policy may make up as many names as it likes.
const UNKNOWN_MAX: usize = 10;

// === impl Reader ===

impl Reader {
    fn verdict(&mut self, verdict: model::Verdict) -> Result<Verdict, UnknownVerdict> {
        Ok(match verdict {
            model::Verdict::Keep => Verdict::Keep,
            model::Verdict::Drop(reason) => Verdict::Drop(self.interner.text(&reason)),
            model::Verdict::Edit(edits) => Verdict::Edit(self.edits(edits)),
            model::Verdict::Split(lists) => {
                Verdict::Split(lists.into_iter().map(|edits| self.edits(edits)).collect())
            }
            model::Verdict::Other((name, _)) => return Err(UnknownVerdict::new(name)),
        })
    }

    fn edits(&mut self, edits: Vec<model::Edit>) -> Vec<Edit> {
        edits.into_iter().filter_map(|edit| self.edit(edit)).collect()
    }

    fn edit(&mut self, edit: model::Edit) -> Option<Edit> {
        Some(match edit {
            model::Edit::Host(host) => Edit::Host(host),
            model::Edit::Namespace(namespace) => Edit::Namespace(namespace),
            model::Edit::Address(address) => Edit::Address(address),
            model::Edit::Ports(ports) => Edit::Ports(ports.into_iter().map(port).collect()),
            model::Edit::Label((key, value)) => Edit::Label(key, value),
            model::Edit::RemoveLabel(key) => Edit::RemoveLabel(key),
            model::Edit::Locality(model::LocalityResult { region, zone, subzone }) => {
                let mut text = |raw: String| self.interner.text(&raw);
                Edit::Locality(Locality {
                    region: text(region),
                    zone: text(zone),
                    subzone: text(subzone),
                })
            }
            model::Edit::Weight(weight) => Edit::Weight(weight),
            model::Edit::Network(network) => Edit::Network(network),
            model::Edit::ServiceAccount(account) => Edit::ServiceAccount(account),
            model::Edit::Other((name, _)) => {
                self.note_unknown(name);
                return None;
            }
        })
    }

    fn note_unknown(&mut self, mut name: String) {
        cut(&mut name, NAME_LEN_MAX);
        if self.unknown.len() < UNKNOWN_MAX && !self.unknown.contains(&name) {
            self.unknown.push(name);
        }
    }

    fn setting(&mut self, setting: model::Setting) -> Option<Setting> {
        Some(match setting {
            model::Setting::Alias(host) => Setting::Alias(host),
            model::Setting::Address(address) => Setting::Address(address),
            model::Setting::Location(location) => Setting::Location(location),
            model::Setting::Resolution(resolution) => Setting::Resolution(resolution),
            model::Setting::ExportTo(namespace) => Setting::ExportTo(namespace),
            model::Setting::SubjectAltName(name) => Setting::SubjectAltName(name),
            model::Setting::Label((key, value)) => Setting::Label(key, value),
            model::Setting::Annotation((key, value)) => Setting::Annotation(key, value),
            model::Setting::Name(name) => Setting::Name(name),
            model::Setting::Other((name, _)) => {
                self.note_unknown(name);
                return None;
            }
        })
    }
}

fn port(port: model::PortResult) -> PortEdit {
    let model::PortResult { name, number, target, protocol } = port;
    PortEdit { name, number, target, protocol }
}
