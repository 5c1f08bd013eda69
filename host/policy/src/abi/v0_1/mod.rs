//! Version 0.1 of the contract.

mod receive;
mod send;

use wasmtime::component::{ComponentType, Instance, InstancePre, Lift, Linker, WasmStr};
use wasmtime::{Store, StoreContextMut};

use super::{Descriptor, Item, MeshFacts, Problem, ServiceFacts, Settings, Verdicts};
use crate::log;
use crate::projection::Projection;
use crate::state::State;

#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    dead_code,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
mod wit {
    wasmtime::component::bindgen!({
        path: "../../wit",
        // All exports at once: which of them a component has is found out by looking.
        inline: "
            package landfall:host;

            world everything {
                export landfall:policy/plugin@0.1.0;
                export landfall:policy/instances@0.1.0;
                export landfall:policy/services@0.1.0;
            }
        ",
        world: "landfall:host/everything",
        // What goes to the guest is borrowed; copying strings is most of what a call costs.
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

use wit::exports::landfall::policy::{instances, plugin, services};
use wit::landfall::policy::model;

/// The exports of one instance of a policy.
pub(crate) struct Abi {
    plugin: plugin::Guest,
    instances: Option<instances::Guest>,
    services: Option<services::Guest>,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[expect(dead_code, reason = "the derive makes them of the guest's number")]
#[component(enum)]
#[repr(u8)]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

/// A policy was asked for what it does not decide. The host looks before it asks.
#[derive(Debug, thiserror::Error)]
#[error("the policy does not export {0}")]
struct NotExported(&'static str);

/// The name of the imported interface; any version 0.1.x matches it.
const LOG: &str = "landfall:policy/log@0.1.0";

/// Answers the imports of the contract.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(LOG)?.func_wrap(
        "write",
        |context: StoreContextMut<'_, State>, (level, message): (Level, WasmStr)| {
            // Not copied before it is cut: lines can be long.
            let line = message.to_str(&context)?;
            let state = context.data();
            state.log.write(level.into(), &line, state.capture.as_ref());
            Ok(())
        },
    )
}

// === impl Abi ===

impl Abi {
    /// Looks the exports of `instance` up.
    pub(crate) fn load(
        pre: &InstancePre<State>,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<Self> {
        let exports = |name: &str| pre.component().get_export_index(None, name).is_some();
        let plugin = plugin::GuestIndices::new(pre)?.load(&mut *store, instance)?;
        let instances = exports("landfall:policy/instances@0.1.0")
            .then(|| instances::GuestIndices::new(pre)?.load(&mut *store, instance))
            .transpose()?;
        let services = exports("landfall:policy/services@0.1.0")
            .then(|| services::GuestIndices::new(pre)?.load(&mut *store, instance))
            .transpose()?;
        Ok(Self { plugin, instances, services })
    }

    pub(crate) fn describe(&self, store: &mut Store<State>) -> wasmtime::Result<Descriptor> {
        let model::Descriptor { name, version, reads, schema, ext: _ } =
            self.plugin.call_describe(store)?;
        Ok(Descriptor { name, version, reads, schema })
    }

    pub(crate) fn configure(
        &self,
        store: &mut Store<State>,
        settings: &str,
    ) -> wasmtime::Result<Result<(), Vec<Problem>>> {
        let answer = self.plugin.call_configure(store, settings)?;
        Ok(answer.map_err(|problems| {
            problems
                .into_iter()
                .map(|model::Problem { path, message }| Problem { path, message })
                .collect()
        }))
    }

    pub(crate) fn decide(
        &self,
        store: &mut Store<State>,
        service: ServiceFacts<'_>,
        items: &[Item<'_>],
        projection: &Projection,
    ) -> wasmtime::Result<Result<Verdicts, String>> {
        let guest = self.instances.as_ref().ok_or(NotExported("instances"))?;
        let mut pairs = Vec::new();
        let service = send::service(service, &mut pairs).of(&pairs);
        let batch = send::Batch::new(items, projection);
        let answer = guest.call_decide(store, service, &batch.instances(items, projection))?;
        Ok(answer.map(receive::verdicts))
    }

    pub(crate) fn decide_service(
        &self,
        store: &mut Store<State>,
        asked: MeshFacts<'_>,
    ) -> wasmtime::Result<Result<Settings, String>> {
        let guest = self.services.as_ref().ok_or(NotExported("services"))?;
        let answer = send::with_mesh_service(asked, |service| guest.call_decide(store, service))?;
        Ok(answer.map(receive::settings))
    }
}

impl From<Level> for log::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}
