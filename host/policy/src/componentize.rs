//! Makes components of core modules, for `landfall policy componentize` and for tests. The daemon itself loads components only.
//!
//! A compiler for WebAssembly leaves a core module that follows the canonical ABI, and the toolchain's bindings put a
//! custom section into it that says which WIT world it is for. What is done here is to wrap the one by means of the other.

use std::error::Error;

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

/// The first eight bytes of every core module: magic, version 1, layer 0.
const CORE_MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";

/// The first eight bytes of every component: magic, version 13, layer 1.
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// What the crates for this report, without their error type.
type Cause = Box<dyn Error + Send + Sync>;

/// Why no component could be made of a core module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComponentizeError {
    /// The bytes are a component already.
    #[error("failed to make a component of what is one already; use it as it is")]
    AlreadyComponent,
    /// The bytes are something else, perhaps WAT or a compressed module.
    #[error(
        "failed to read a core module: the bytes do not begin with its header; pass a .wasm file that is not compressed"
    )]
    NotModule,
    /// Nothing in the module says which world it is for.
    #[error(
        "failed to find out which WIT world the module is for: it has no section named component-type; \
         build it with bindings made from landfall.wit, or embed a world first"
    )]
    NoWorld,
    /// The section that names the world, or the module around it, cannot be read.
    #[error(
        "failed to read which WIT world the module is for; \
         check that the bindings were made by a version of wit-bindgen that Landfall's documentation names"
    )]
    ReadWorld(#[source] Cause),
    /// The module lacks what its world needs, has something of another type, or imports what the world does not.
    #[error(
        "failed to fit the module to its WIT world; add the export, or remove the import, that the cause names"
    )]
    Encode(#[source] Cause),
    /// The WIT text to embed has a mistake, or the world is not in it.
    #[error("failed to read world {world} from the WIT text")]
    ReadWit {
        /// The world that was looked for.
        world: String,
        /// The mistake and where it is.
        #[source]
        source: Cause,
    },
    /// The world is fine as text but cannot be expressed in a module.
    #[error("failed to embed world {world} into the module")]
    Embed {
        /// The world that was to be embedded.
        world: String,
        /// What stood in the way.
        #[source]
        source: Cause,
    },
}

/// Makes a component of a core module that carries its world, as wit-bindgen and its like leave it.
///
/// The same module gives the same bytes. Imports that the module does not use are left out of the component.
///
/// # Errors
///
/// When the bytes are not such a module, or when it does not keep to its world; the sources name the export, import or
/// type. The result is validated, so an invalid module is an error too.
pub fn componentize(core_module: &[u8]) -> Result<Vec<u8>, ComponentizeError> {
    check_header(core_module)?;
    let (stripped, _) = wit_component::metadata::decode(core_module)
        .map_err(|error| ComponentizeError::ReadWorld(error.into()))?;
    // The encoder takes a module without a world for one of an empty world, and makes a component that exports nothing.
    if stripped.is_none() {
        return Err(ComponentizeError::NoWorld);
    }
    ComponentEncoder::default()
        .validate(true)
        .module(core_module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| ComponentizeError::Encode(error.into()))
}

/// Puts a world into a core module that names none, so that [`componentize`] takes it: for modules written by hand.
///
/// `wit` is the text of one WIT package, `world` the name of a world in it. Nothing is checked about the module but its
/// header.
///
/// # Errors
///
/// When the bytes are not a core module or the text does not define the world.
pub fn embed(core_module: &[u8], wit: &str, world: &str) -> Result<Vec<u8>, ComponentizeError> {
    check_header(core_module)?;
    let mut resolve = Resolve::default();
    let id = resolve
        .push_str("policy.wit", wit)
        .map_err(Cause::from)
        .and_then(|package| resolve.select_world(&[package], Some(world)).map_err(Cause::from))
        .map_err(|source| ComponentizeError::ReadWit { world: world.to_owned(), source })?;
    let mut module = core_module.to_vec();
    wit_component::embed_component_metadata(&mut module, &resolve, id, StringEncoding::UTF8)
        .map_err(|error| ComponentizeError::Embed {
            world: world.to_owned(),
            source: error.into(),
        })?;
    Ok(module)
}

fn check_header(bytes: &[u8]) -> Result<(), ComponentizeError> {
    if bytes.starts_with(&CORE_MODULE) {
        Ok(())
    } else if bytes.starts_with(&COMPONENT) {
        Err(ComponentizeError::AlreadyComponent)
    } else {
        Err(ComponentizeError::NotModule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = include_str!("../../../wit/landfall.wit");
    const EMPTY: &str = "package test:empty; world nothing {}";

    /// Every message of an error and its sources.
    fn messages(error: &ComponentizeError) -> String {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    #[track_caller]
    fn check_refused(result: Result<Vec<u8>, ComponentizeError>, want: &[&str]) {
        let text = messages(&result.unwrap_err());
        for part in want {
            assert!(text.contains(part), "no {part:?} in {text:?}");
        }
    }

    #[test]
    fn a_module_that_keeps_to_its_world_becomes_a_component() {
        let module = embed(&CORE_MODULE, EMPTY, "nothing").unwrap();
        let component = componentize(&module).unwrap();
        assert!(component.starts_with(&COMPONENT));
        assert_eq!(component, componentize(&module).unwrap(), "the same module gave other bytes");
    }

    #[test]
    fn a_module_without_a_world_is_refused() {
        check_refused(componentize(&CORE_MODULE), &["component-type", "embed"]);
    }

    #[test]
    fn a_module_that_lacks_an_export_is_refused_by_its_name() {
        let module = embed(&CORE_MODULE, CONTRACT, "instance-policy").unwrap();
        check_refused(componentize(&module), &["add the export", "landfall:policy/plugin@0.1.0"]);
    }

    #[test]
    fn other_bytes_are_refused() {
        let component = componentize(&embed(&CORE_MODULE, EMPTY, "nothing").unwrap()).unwrap();
        check_refused(componentize(&component), &["already"]);
        for bytes in [&b""[..], b"(module)", b"\x1f\x8b\x08", &CORE_MODULE[..7]] {
            check_refused(componentize(bytes), &["core module"]);
            check_refused(embed(bytes, EMPTY, "nothing"), &["core module"]);
        }
        let cut = [&CORE_MODULE[..], &[0, 200]].concat();
        check_refused(componentize(&cut), &["failed to read which WIT world"]);
    }

    #[test]
    fn a_world_that_is_not_there_is_refused() {
        check_refused(embed(&CORE_MODULE, EMPTY, "other"), &["read world other"]);
        check_refused(
            embed(&CORE_MODULE, "package test:broken; world {", "nothing"),
            &["read world nothing"],
        );
    }
}
