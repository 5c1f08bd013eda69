//! The bridges, and what is asked of each.

use landfall_policy::{Edits, Instance, MeshService, Service, Setting};

use crate::consul;
use crate::consul2istio::Consul2Istio;
use crate::eureka2istio::{self, Eureka2Istio};
use crate::istio_consul::IstioConsul;
use crate::registry_sync::{self, RegistrySync};

/// A bridge with its options.
#[derive(Debug)]
pub(crate) enum Bridge {
    RegistrySync(RegistrySync),
    Consul2Istio(Consul2Istio),
    Eureka2Istio(Eureka2Istio),
    IstioConsul(IstioConsul),
}

// === impl Bridge ===

impl Bridge {
    /// The fields of an instance that it looked at.
    pub(crate) fn reads(&self) -> &'static [&'static str] {
        match self {
            Self::RegistrySync(_) => registry_sync::READS,
            Self::Consul2Istio(_) | Self::IstioConsul(_) => consul::READS,
            Self::Eureka2Istio(_) => eureka2istio::READS,
        }
    }

    /// How it published the instance, or why it did not.
    pub(crate) fn publish(
        &self,
        service: &Service,
        instance: &Instance,
    ) -> Result<Edits, &'static str> {
        match self {
            Self::RegistrySync(bridge) => Ok(bridge.publish(service, instance)),
            Self::Consul2Istio(bridge) => Ok(bridge.publish(service, instance)),
            Self::Eureka2Istio(bridge) => bridge.publish(service, instance),
            Self::IstioConsul(bridge) => Ok(bridge.publish(service, instance)),
        }
    }

    /// What it wrote of the service as a whole.
    pub(crate) fn settings(&self, service: &MeshService) -> Vec<Setting> {
        match self {
            Self::RegistrySync(bridge) => bridge.settings(service),
            Self::Consul2Istio(bridge) => bridge.settings(service),
            Self::Eureka2Istio(bridge) => bridge.settings(service),
            Self::IstioConsul(bridge) => bridge.settings(service),
        }
    }
}
