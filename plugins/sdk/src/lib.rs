//! Write a Landfall policy in Rust as a plain function.
//!
//! A policy is a type that holds its settings and a function that says what becomes of one instance. Nothing of it is
//! specific to WebAssembly, so `cargo test` runs it natively; [`export!`] adds what a component needs.
//!
//! ```
//! use landfall_policy::{Edits, Instance, InstancePolicy, Policy, Problem, Service, Verdict};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Teams {
//!     label: String,
//! }
//!
//! impl Policy for Teams {
//!     type Settings = Self;
//!     const READS: Option<&'static [&'static str]> = Some(&["meta/team"]);
//!
//!     fn new(settings: Self) -> Result<Self, Vec<Problem>> {
//!         Ok(settings)
//!     }
//! }
//!
//! impl InstancePolicy for Teams {
//!     fn decide(&self, _service: &Service, instance: &Instance) -> Verdict {
//!         match instance.meta("team") {
//!             Some(team) => Edits::new().label(&self.label, team).into(),
//!             None => Verdict::drop("nobody owns it"),
//!         }
//!     }
//! }
//!
//! landfall_policy::export!(Teams);
//!
//! let policy: Teams = landfall_policy::testing::configure(r#"{ "label": "team" }"#).unwrap();
//! let instance = Instance::new("pay-1").with_meta("team", "payments");
//! assert_eq!(
//!     policy.decide(&Service::new("pay"), &instance),
//!     Edits::new().label("team", "payments").into(),
//! );
//! ```
//!
//! A policy's crate has `crate-type = ["cdylib"]` alone: beside an `rlib` rustc leaves link-time optimisation out. It is
//! built for `wasm32-unknown-unknown` in release mode; `landfall policy componentize` makes a component of the core module.
//!
//! A panic is a trap: Landfall throws the component instance away, finds the registry instance that caused it and keeps
//! that one's last good output. The panic's message appears in Landfall's log.

#[cfg(any(all(target_family = "wasm", feature = "allocator"), test))]
mod allocator;
#[doc(hidden)]
pub mod bindings;
mod edits;
#[doc(hidden)]
pub mod glue;
pub mod log;
mod model;
pub mod names;
pub mod settings;
pub mod testing;

pub use bindings::base::landfall::policy::model::{
    Descriptor, Edit, Instance, Locality, Mapping, MeshService, Pair, Port, Problem, Service,
    Setting, Verdict,
};
pub use edits::Edits;
pub use settings::NoSettings;

/// A policy with its settings in place.
///
/// The name and version that Landfall shows are those of the crate that calls [`export!`].
pub trait Policy: Sized + Send + Sync + 'static {
    /// What an operator may set, read from JSON. Write `#[serde(deny_unknown_fields)]` on it to have misspelled keys
    /// refused; use [`NoSettings`] when there is nothing to set. It may be `Self`.
    ///
    /// Prefer plain structs and externally tagged enums: serde buffers what is `flatten`ed, `untagged` or internally
    /// tagged, and an error in there can only be reported at the outermost such value.
    type Settings: serde::de::DeserializeOwned;

    /// The instance fields that the policy looks at: `tags`, `meta`, `ext`, `mapping`, or single keys as in
    /// `meta/version`. Fields not named are `None`, and each one left out makes the policy faster. `None` is all of them,
    /// an empty list only the instance's id and health.
    const READS: Option<&'static [&'static str]> = None;

    /// A JSON Schema of the settings, for editors and for Landfall, which hands it out with the policy's description.
    const SCHEMA: Option<&'static str> = None;

    /// Takes the settings. Called once, before anything is decided.
    ///
    /// # Errors
    ///
    /// Every problem with the settings that their type alone does not rule out; see [`settings::problem`]. Any error,
    /// an empty list too, refuses the policy.
    fn new(settings: Self::Settings) -> Result<Self, Vec<Problem>>;

    /// What this policy reads with these settings, for policies where the settings decide that. It may only narrow
    /// what [`Policy::READS`] says.
    fn reads(&self) -> Option<Vec<String>> {
        glue::owned(Self::READS)
    }
}

/// A policy that decides instance by instance.
pub trait InstancePolicy: Policy {
    /// Says what becomes of one instance. Equal input must give equal output: Landfall remembers answers.
    fn decide(&self, service: &Service, instance: &Instance) -> Verdict;

    /// Decides some instances of one service: one verdict each, in the same order. Only worth writing for a policy that
    /// would otherwise compute the same thing of `service` again for each of them.
    ///
    /// # Errors
    ///
    /// A text for the operator. It stands for a failed call: nothing is published or withdrawn because of it.
    fn decide_all(
        &self,
        service: &Service,
        instances: &[Instance],
    ) -> Result<Vec<Verdict>, String> {
        Ok(instances.iter().map(|instance| self.decide(service, instance)).collect())
    }
}

/// A policy that decides what belongs to a service of the mesh as a whole.
pub trait ServicePolicy: Policy {
    /// The settings of one service's ServiceEntry that differ from the defaults; empty for none.
    ///
    /// # Errors
    ///
    /// A text for the operator. It stands for a failed call: the service keeps the settings that it has.
    fn decide_service(&self, service: &MeshService) -> Result<Vec<Setting>, String>;
}

/// Makes a component of the policy, exporting what it decides: `instances` (which may be left out), `services` or both.
///
/// ```text
/// landfall_policy::export!(Canary);                        // implements InstancePolicy
/// landfall_policy::export!(Visibility, services);          // implements ServicePolicy
/// landfall_policy::export!(Everything, instances, services);
/// ```
///
/// Natively it only checks that the traits are there. A crate calls it once.
#[macro_export]
macro_rules! export {
    ($policy:ty) => {
        $crate::export!($policy, instances);
    };
    ($policy:ty, $($interface:ident),+) => {
        $(const _: fn() = $crate::glue::$interface::check::<$policy>;)+

        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "the canonical ABI exports functions by name and passes raw pointers")]
        const _: () = {
            static POLICY: $crate::glue::Slot<$policy> = $crate::glue::Slot::new();

            struct Component;

            impl $crate::bindings::plugin::exports::landfall::policy::plugin::Guest for Component {
                fn describe() -> $crate::Descriptor {
                    $crate::glue::describe(&POLICY, env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
                }

                fn configure(settings: String) -> Result<(), Vec<$crate::Problem>> {
                    $crate::glue::configure(&POLICY, &settings)
                }
            }

            $crate::bindings::plugin::__export_plugin!(Component with_types_in $crate::bindings::plugin);
            $($crate::__export_interface!($interface, Component, POLICY);)+
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_interface {
    (instances, $component:ident, $policy:ident) => {
        impl $crate::bindings::instances::exports::landfall::policy::instances::Guest for $component {
            fn decide(
                service: $crate::Service,
                items: Vec<$crate::Instance>,
            ) -> Result<Vec<$crate::Verdict>, String> {
                $crate::glue::instances::decide(&$policy, &service, &items)
            }
        }

        $crate::bindings::instances::__export_instances!($component with_types_in $crate::bindings::instances);
    };
    (services, $component:ident, $policy:ident) => {
        impl $crate::bindings::services::exports::landfall::policy::services::Guest for $component {
            fn decide(service: $crate::MeshService) -> Result<Vec<$crate::Setting>, String> {
                $crate::glue::services::decide(&$policy, &service)
            }
        }

        $crate::bindings::services::__export_services!($component with_types_in $crate::bindings::services);
    };
}
