//! Which instances a rule is for.

use std::collections::BTreeMap;

use landfall_policy::{Instance, Service};
use serde::Deserialize;

use crate::glob::{Glob, OneOf};

/// Conditions on an instance, of which all have to hold. A list holds if one of its patterns fits, where `*` stands for
/// any text and `?` for one character.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Match {
    /// Names of services, as their registry has them.
    services: Option<OneOf>,
    /// Names of sources in Landfall's configuration.
    sources: Option<OneOf>,
    /// Kinds of registry: `consul`, `eureka`, ...
    registries: Option<OneOf>,
    /// Datacenters of services.
    datacenters: Option<OneOf>,
    /// Partitions of services.
    partitions: Option<OneOf>,
    /// Groups of services, such as Consul's namespaces.
    groups: Option<OneOf>,
    /// The service's meta: each key has to be there with a value that fits, or with `null` has to be absent.
    service_meta: BTreeMap<String, Option<Glob>>,
    /// `passing`, `warning`, `critical`, `maintenance` or `unknown`.
    health: Option<OneOf>,
    /// Registry's ids of instances.
    ids: Option<OneOf>,
    /// One of the instance's tags has to fit one of these.
    tags: Option<OneOf>,
    /// Each of these has to be fitted by one of the instance's tags.
    all_tags: Vec<Glob>,
    /// The instance's meta: each key has to be there with a value that fits, or with `null` has to be absent.
    meta: BTreeMap<String, Option<Glob>>,
    /// Facts that only one kind of registry has, as `meta`.
    ext: BTreeMap<String, Option<Glob>>,
}

// === impl Match ===

impl Match {
    /// Whether the conditions on the service hold. Without them being asked again, [`Match::fits_instance`] says the rest.
    pub(crate) fn fits_service(&self, service: &Service) -> bool {
        fits(self.services.as_ref(), &service.name)
            && fits(self.sources.as_ref(), &service.source)
            && fits(self.registries.as_ref(), &service.registry)
            && fits(self.datacenters.as_ref(), &service.datacenter)
            && fits(self.partitions.as_ref(), &service.partition)
            && fits(self.groups.as_ref(), &service.group)
            && all_fit(&self.service_meta, |key| service.meta(key))
    }

    /// Whether the conditions on the instance hold.
    pub(crate) fn fits_instance(&self, instance: &Instance) -> bool {
        fits(self.health.as_ref(), &instance.health)
            && fits(self.ids.as_ref(), &instance.id)
            && self
                .tags
                .as_ref()
                .is_none_or(|tags| instance.tags().iter().any(|tag| tags.fits(tag)))
            && self.all_tags.iter().all(|glob| instance.tags().iter().any(|tag| glob.fits(tag)))
            && all_fit(&self.meta, |key| instance.meta(key))
            && all_fit(&self.ext, |key| instance.ext(key))
    }

    /// Whether it fits everything.
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            services,
            sources,
            registries,
            datacenters,
            partitions,
            groups,
            service_meta,
            health,
            ids,
            tags,
            all_tags,
            meta,
            ext,
        } = self;
        [services, sources, registries, datacenters, partitions, groups, health, ids, tags]
            .iter()
            .all(|c| c.is_none())
            && [service_meta, meta, ext].iter().all(|conditions| conditions.is_empty())
            && all_tags.is_empty()
    }

    /// Calls back with each instance field that is read, as `descriptor.reads` names them.
    pub(crate) fn reads(&self, read: &mut dyn FnMut(String)) {
        if self.tags.is_some() || !self.all_tags.is_empty() {
            read("tags".to_owned());
        }
        self.meta.keys().for_each(|key| read(format!("meta/{key}")));
        self.ext.keys().for_each(|key| read(format!("ext/{key}")));
    }
}

fn fits(condition: Option<&OneOf>, text: &str) -> bool {
    condition.is_none_or(|globs| globs.fits(text))
}

fn all_fit<'a>(
    conditions: &BTreeMap<String, Option<Glob>>,
    get: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    conditions.iter().all(|(key, condition)| match (condition, get(key)) {
        (Some(glob), Some(value)) => glob.fits(value),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    })
}
