//! The file format, as it is read. Serde knows these types only; `convert` checks what they say.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// How much is read of a source, over all of its files. 100,000 instances take about 30 MB.
pub const BYTES_MAX: u64 = 256 << 20;

/// One entry of `services`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) name: String,
    #[serde(default)]
    pub(super) datacenter: String,
    #[serde(default)]
    pub(super) partition: String,
    #[serde(default)]
    pub(super) group: String,
    #[serde(default)]
    pub(super) meta: Map,
    #[serde(default)]
    pub(super) ext: Map,
    #[serde(default)]
    pub(super) instances: Vec<Spanned<Instance>>,
}

/// One entry of `instances`. Numbers are wider than what is legal: one bad number is a finding
/// about one instance, not an error in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Instance {
    #[serde(default)]
    pub(super) id: String,
    pub(super) address: String,
    pub(super) port: Option<i64>,
    #[serde(default)]
    pub(super) ports: Vec<Port>,
    pub(super) health: Option<String>,
    pub(super) weight: Option<i64>,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    #[serde(default)]
    pub(super) meta: Map,
    #[serde(default)]
    pub(super) ext: Map,
    pub(super) locality: Option<Locality>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    #[serde(default)]
    pub(super) name: String,
    pub(super) port: i64,
    #[serde(default)]
    pub(super) protocol: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Locality {
    #[serde(default)]
    pub(super) region: String,
    #[serde(default)]
    pub(super) zone: String,
    #[serde(default)]
    pub(super) subzone: String,
}

/// Keys and values, in the order of keys, each key once.
#[derive(Debug, Default)]
pub(super) struct Map(pub(super) Vec<(String, String)>);

/// Takes services one at a time, so that a file of 100,000 instances is never in memory as text,
/// as these types and as the core's types at once.
pub(super) trait Sink {
    fn service(&mut self, service: Service);
}

/// Who notices that a key is given twice. Either way it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duplicates {
    /// The types here, without saying where.
    Quickly,
    /// The reader of YAML, which takes twice as long for it.
    WithPlace,
}

/// Reads `text` into `sink`.
pub(super) fn read(
    text: &str,
    sink: &mut impl Sink,
    duplicates: Duplicates,
) -> Result<(), serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        // Bounds for a file of BYTES_MAX; an instance takes about 40 events.
        budget: serde_saphyr::budget! {
            max_events: 500_000_000,
            max_nodes: 500_000_000,
            max_total_scalar_bytes: usize::try_from(BYTES_MAX).unwrap_or(usize::MAX),
            // A listing is flat; depth is what an attacker would use.
            max_depth: 16,
        },
        duplicate_keys: match duplicates {
            Duplicates::Quickly => serde_saphyr::DuplicateKeyPolicy::PassThrough,
            Duplicates::WithPlace => serde_saphyr::DuplicateKeyPolicy::Error,
        },
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |de| {
        TopSeed(sink).deserialize(de)
    })
}

/// Reads `text` if it is JSON that says everything as JSON would, ten times as fast as [`read`].
/// If not, `read` may still take it, for all JSON is YAML; and it knows lines and columns.
pub(super) fn read_json(text: &str, sink: &mut impl Sink) -> Result<(), serde_json::Error> {
    let mut de = serde_json::Deserializer::from_str(text);
    TopSeed(sink).deserialize(&mut de)?;
    de.end()
}

// === The top of the file ===

struct TopSeed<'a, S>(&'a mut S);

impl<'de, S: Sink> DeserializeSeed<'de> for TopSeed<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<(), D::Error> {
        de.deserialize_map(self)
    }
}

impl<'de, S: Sink> Visitor<'de> for TopSeed<'_, S> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map with the key `services`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<TopKey>()? {
            if seen {
                return Err(A::Error::duplicate_field("services"));
            }
            match key {
                TopKey::Services => map.next_value_seed(ServicesSeed(self.0))?,
            }
            seen = true;
        }
        if seen { Ok(()) } else { Err(A::Error::missing_field("services")) }
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum TopKey {
    Services,
}

struct ServicesSeed<'a, S>(&'a mut S);

impl<'de, S: Sink> DeserializeSeed<'de> for ServicesSeed<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<(), D::Error> {
        de.deserialize_seq(self)
    }
}

impl<'de, S: Sink> Visitor<'de> for ServicesSeed<'_, S> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of services; write `services: []` where there are none")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(service) = seq.next_element::<Service>()? {
            self.0.service(service);
        }
        Ok(())
    }
}

// === impl Map ===

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Map;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Map, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<String, String>()? {
                    pairs.push(pair);
                }
                pairs.sort();
                match pairs.windows(2).find(|two| two[0].0 == two[1].0) {
                    Some(two) => {
                        Err(A::Error::custom(format_args!("duplicate field `{}`", two[0].0)))
                    }
                    None => Ok(Map(pairs)),
                }
            }
        }
        de.deserialize_map(Pairs)
    }
}

// === Errors ===

/// What a syntax error is, and where: line and column from 1.
pub(super) fn explain(error: &serde_saphyr::Error) -> (u64, u64, String) {
    use serde_saphyr::DeserializeError as Error;
    let error = error.without_snippet();
    let place = error.location().unwrap_or(Location::UNKNOWN);
    // The reader's own words are those of its programmers.
    let message = match error {
        Error::SerdeUnknownField { field, expected, .. }
        | Error::SerdeUnknownVariant { variant: field, expected, .. } => {
            unknown_key(field, expected)
        }
        Error::DuplicateMappingKey { key, .. } => {
            format!("the key `{}` is given twice", key.as_deref().unwrap_or_default())
        }
        Error::InvalidScalar { ty: "i64", .. } => "this is not a whole number".to_owned(),
        Error::Unexpected { expected: "sequence start", .. } => "a list is expected".to_owned(),
        Error::Unexpected { expected: "mapping start", .. } => "a map is expected".to_owned(),
        Error::MultipleDocuments { .. } => "a second document begins; one file is one".to_owned(),
        Error::Eof { .. } => "the file ends too early".to_owned(),
        _ => {
            let rendered = error.render();
            // The place is told beside it.
            let place = format!(" at line {}, column {}", place.line(), place.column());
            rendered.replace(&place, "")
        }
    };
    (place.line(), place.column(), message)
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(key, word), word))
        .min()
        .filter(|(distance, word)| *distance <= word.len().max(3) / 2);
    match nearest {
        Some((_, word)) => format!("unknown key `{key}` (did you mean `{word}`?)"),
        None => format!("unknown key `{key}` (known are {})", known.join(", ")),
    }
}
