//! What wit-bindgen makes of the contract.
//!
//! One world per exported interface, not the contract's own worlds: wit-bindgen names an export macro after its
//! interface, so an interface can be generated once only. The descriptions of the worlds that `export!` picks are joined
//! when the component is made, and what this crate itself contributes has no exports.

#![allow(missing_docs, reason = "generated; the documentation is that of the WIT text")]
#![allow(unsafe_code, reason = "generated; the canonical ABI passes raw pointers")]
#![allow(unreachable_pub, reason = "generated; the export macros reach it from other crates")]
#![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]

/// The types, and the import that logs.
pub mod base {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package landfall:sdk;

            world base {
                import landfall:policy/model@0.1.0;
                import landfall:policy/log@0.1.0;
            }
        ",
        pub_export_macro: true,
        generate_all,
        // Everything in `model` is used by the exports, which this world does not have.
        generate_unused_types: true,
        additional_derives: [PartialEq],
    });
}

/// Interface `plugin`, which every policy exports.
pub mod plugin {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package landfall:sdk;

            world plugin {
                export landfall:policy/plugin@0.1.0;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "__export_plugin",
        with: {
            "landfall:policy/model@0.1.0": super::base::landfall::policy::model,
            "landfall:policy/plugin@0.1.0": generate,
        },
    });
}

/// Interface `instances`.
pub mod instances {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package landfall:sdk;

            world instances {
                export landfall:policy/instances@0.1.0;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "__export_instances",
        with: {
            "landfall:policy/model@0.1.0": super::base::landfall::policy::model,
            "landfall:policy/instances@0.1.0": generate,
        },
    });
}

/// Interface `services`.
pub mod services {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package landfall:sdk;

            world services {
                export landfall:policy/services@0.1.0;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "__export_services",
        with: {
            "landfall:policy/model@0.1.0": super::base::landfall::policy::model,
            "landfall:policy/services@0.1.0": generate,
        },
    });
}
