//! Writes a snapshot in the file format, so that any registry can be recorded and replayed.

use std::io;

use landfall_core::pairs::Pairs;
use landfall_core::registry::{Instance, InstancePort, Locality, Service, Snapshot};
use landfall_core::text::Text;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_saphyr::{FlowMap, FlowSeq};

/// Writes `snapshot` as YAML that reads back as an equal one. Equal snapshots give equal bytes.
///
/// # Errors
/// `out` refused a write.
pub fn write(snapshot: &Snapshot, mut out: &mut dyn io::Write) -> io::Result<()> {
    let options = serde_saphyr::ser_options! {
        // Folded text would be harder to compare by eye and by line.
        prefer_block_scalars: false,
        compact_list_indent: false,
    };
    serde_saphyr::to_io_writer_with_options(&mut out, &SnapshotOut(snapshot), options)
        .map_err(io::Error::other)
}

struct SnapshotOut<'a>(&'a Snapshot);
struct ServiceOut<'a>(&'a Service);
struct InstanceOut<'a>(&'a Instance);
struct PortOut<'a>(&'a InstancePort);
struct LocalityOut<'a>(&'a Locality);
struct PairsOut<'a>(&'a Pairs);

/// A sequence that is written as it is walked, for `FlowSeq` and a map's entry want a value.
struct Each<F>(F);

impl<T: Serialize, I: Iterator<Item = T>, F: Fn() -> I> Serialize for Each<F> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq((self.0)())
    }
}

impl Serialize for SnapshotOut<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(Some(1))?;
        let services = || self.0.services.values().map(|service| ServiceOut(service));
        map.serialize_entry("services", &Each(services))?;
        map.end()
    }
}

impl Serialize for ServiceOut<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let Service { key, meta, ext, .. } = self.0;
        let mut map = out.serialize_map(None)?;
        map.serialize_entry("name", &*key.name)?;
        text(&mut map, "datacenter", &key.datacenter)?;
        text(&mut map, "partition", &key.partition)?;
        text(&mut map, "group", &key.group)?;
        pairs(&mut map, "meta", meta)?;
        pairs(&mut map, "ext", ext)?;
        let instances = || self.0.instances().iter().map(|instance| InstanceOut(instance));
        map.serialize_entry("instances", &Each(instances))?;
        map.end()
    }
}

impl Serialize for InstanceOut<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let Instance { id, address, ports, health, weight, tags, meta, ext, locality } = self.0;
        let mut map = out.serialize_map(None)?;
        map.serialize_entry("id", &**id)?;
        map.serialize_entry("address", &**address)?;
        match ports.as_slice() {
            [] => (),
            [only] if only.name.is_empty() && only.protocol.is_empty() => {
                map.serialize_entry("port", &only.number)?;
            }
            ports => map.serialize_entry("ports", &FlowSeq(Each(|| ports.iter().map(PortOut))))?,
        }
        map.serialize_entry("health", health.as_str())?;
        if *weight != 1 {
            map.serialize_entry("weight", weight)?;
        }
        if !tags.is_empty() {
            map.serialize_entry("tags", &FlowSeq(Each(|| tags.iter().map(|tag| &**tag))))?;
        }
        pairs(&mut map, "meta", meta)?;
        pairs(&mut map, "ext", ext)?;
        if let Some(locality) = locality {
            map.serialize_entry("locality", &FlowMap(LocalityOut(locality)))?;
        }
        map.end()
    }
}

impl Serialize for PortOut<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        text(&mut map, "name", &self.0.name)?;
        map.serialize_entry("port", &self.0.number)?;
        text(&mut map, "protocol", &self.0.protocol)?;
        map.end()
    }
}

impl Serialize for LocalityOut<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        text(&mut map, "region", &self.0.region)?;
        text(&mut map, "zone", &self.0.zone)?;
        text(&mut map, "subzone", &self.0.subzone)?;
        map.end()
    }
}

impl Serialize for PairsOut<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.0.iter().map(|(key, value)| (&**key, &**value)))
    }
}

fn text<M: SerializeMap>(map: &mut M, key: &'static str, value: &Text) -> Result<(), M::Error> {
    if value.is_empty() { Ok(()) } else { map.serialize_entry(key, &**value) }
}

fn pairs<M: SerializeMap>(map: &mut M, key: &'static str, value: &Pairs) -> Result<(), M::Error> {
    if value.is_empty() { Ok(()) } else { map.serialize_entry(key, &FlowMap(PairsOut(value))) }
}
