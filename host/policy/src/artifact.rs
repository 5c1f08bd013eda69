//! The bytes of a policy before anything of it is compiled or run.
//!
//! Bytes come from ConfigMaps and downloads, so they are taken for hostile: everything here is
//! bounded. What they hold is for `structure` to look at.

use std::borrow::Cow;
use std::io::Read;

use sha2::{Digest, Sha256};

use crate::refusal::AdmissionError;
use crate::wasi;

/// What a registry or a ConfigMap may hand over.
pub const PACKED_BYTES_MAX: usize = 32 << 20;
/// A component. The largest honest ones are Python's, 18 MiB.
pub(crate) const COMPONENT_BYTES_MAX: usize = 64 << 20;
/// Honest components shrink to a fourth; a bomb of zeros to a thousandth.
const RATIO_MAX: usize = 100;

/// The package of the contract, and the versions of it that this host speaks.
const PACKAGE: &str = "landfall:policy/";
const VERSION: &str = "0.1.";

/// What the outside of a component says.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// The names of what it imports.
    pub(crate) imports: Vec<String>,
    /// The names of what it exports.
    pub(crate) exports: Vec<String>,
}

/// The component in `bytes`, inflated if they are compressed.
pub(crate) fn unpacked(bytes: &[u8]) -> Result<Cow<'_, [u8]>, AdmissionError> {
    if bytes.len() > PACKED_BYTES_MAX {
        return Err(AdmissionError::TooLarge {
            what: "the bytes",
            len: bytes.len(),
            max: PACKED_BYTES_MAX,
        });
    }
    let inflated = match bytes {
        [0x1f, 0x8b, ..] => inflated(flate2::read::MultiGzDecoder::new(bytes), bytes.len()),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            // 27 is zstd's own limit for readers: 128 MiB of window.
            zstd::stream::read::Decoder::with_buffer(bytes)
                .and_then(|mut decoder| decoder.window_log_max(27).map(|()| decoder))
                .map_err(|source| AdmissionError::Inflate { source })
                .and_then(|decoder| inflated(decoder, bytes.len()))
        }
        _ => return Ok(Cow::Borrowed(bytes)),
    };
    inflated.map(Cow::Owned)
}

fn inflated(reader: impl Read, packed_len: usize) -> Result<Vec<u8>, AdmissionError> {
    let max = COMPONENT_BYTES_MAX.min(packed_len.saturating_mul(RATIO_MAX));
    let mut bytes = Vec::new();
    // One byte more, to tell what just fits from what does not.
    reader
        .take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| AdmissionError::Inflate { source })?;
    if bytes.len() > max {
        return Err(AdmissionError::TooLarge {
            what: "what the bytes inflate to",
            len: bytes.len(),
            max,
        });
    }
    Ok(bytes)
}

/// The digest that names a component: of its inflated bytes, so that it does not depend on how they
/// travelled.
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    if let [only] = parts {
        hash.update(only);
    } else {
        for part in parts {
            // The length keeps ("a", "bc") and ("ab", "c") apart.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl Outside ===

impl Outside {
    /// Refuses imports that no policy gets, and components that are no policies.
    pub(crate) fn check(&self) -> Result<(), AdmissionError> {
        let denied: Vec<String> = self
            .imports
            .iter()
            .filter(|name| {
                !is_ours(name, "log") && !is_ours(name, "model") && !wasi::is_known(name)
            })
            .cloned()
            .collect();
        if let Some(other) = denied.iter().find(|name| name.starts_with(PACKAGE)) {
            let problem = if is_spoken(other) {
                format!("it imports {other}; of {PACKAGE} a policy may import log")
            } else {
                of_another_version("imports", other)
            };
            return Err(AdmissionError::WorldMismatch { problem });
        }
        if !denied.is_empty() {
            return Err(AdmissionError::ImportsDenied { names: denied.join(", ") });
        }
        let missing = if !self.exports("plugin") {
            format!("it does not export {PACKAGE}plugin@{VERSION}x")
        } else if !self.exports("instances") && !self.exports("services") {
            format!(
                "it exports neither {PACKAGE}instances@{VERSION}x nor {PACKAGE}services@{VERSION}x"
            )
        } else {
            return Ok(());
        };
        // If that is so because of its version, this says more.
        let mut ours = self.exports.iter().filter(|name| name.starts_with(PACKAGE));
        let other = ours.find(|name| !is_spoken(name));
        let problem = other.map_or(missing, |other| of_another_version("exports", other));
        Err(AdmissionError::WorldMismatch { problem })
    }

    /// Whether it exports this interface of the contract.
    pub(crate) fn exports(&self, interface: &str) -> bool {
        self.exports.iter().any(|name| is_ours(name, interface))
    }
}

fn of_another_version(verb: &str, name: &str) -> String {
    format!("it {verb} {name}; this Landfall speaks version {VERSION}x of {PACKAGE}")
}

/// Whether a name of the contract has a version that this host speaks.
fn is_spoken(name: &str) -> bool {
    name.split_once('@').is_some_and(|(_, version)| version.starts_with(VERSION))
}

fn is_ours(name: &str, interface: &str) -> bool {
    name.strip_prefix(PACKAGE)
        .and_then(|rest| rest.split_once('@'))
        .is_some_and(|(found, _)| found == interface && is_spoken(name))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn code(result: Result<impl Sized, AdmissionError>) -> &'static str {
        result.err().map_or("ok", |error| error.code())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn compressed_bytes_are_inflated() {
        let component = wat::parse_str("(component)").unwrap();
        assert_eq!(unpacked(&component).unwrap(), component);
        assert_eq!(unpacked(&gzip(&component)).unwrap(), component);
        assert_eq!(unpacked(&zstd::encode_all(&component[..], 3).unwrap()).unwrap(), component);
    }

    #[test]
    fn bombs_are_refused() {
        let zeros = vec![0; 20 << 20];
        assert_eq!(code(unpacked(&gzip(&zeros))), "too_large");
        assert_eq!(code(unpacked(&zstd::encode_all(&zeros[..], 3).unwrap())), "too_large");
        assert_eq!(code(unpacked(&vec![0; PACKED_BYTES_MAX + 1])), "too_large");
        assert_eq!(code(unpacked(&gzip(b"abc")[..12])), "inflate_failed");
    }

    #[test]
    fn imports_and_exports_are_named() {
        let check = |imports: &[&str], exports: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let outside = Outside { imports: owned(imports), exports: owned(exports) };
            outside.check().err().map_or_else(String::new, |error| error.to_string())
        };
        let plugin = "landfall:policy/plugin@0.1.7";
        let instances = "landfall:policy/instances@0.1.0";
        let fine =
            ["wasi:io/streams@0.2.6", "landfall:policy/model@0.1.0", "landfall:policy/log@0.1.0"];
        assert_eq!(check(&fine, &[plugin, instances]), "");
        assert!(
            check(&["wasi:http/outgoing-handler@0.2.0"], &[plugin, instances])
                .contains("wasi:http/outgoing")
        );
        assert!(
            check(&["wasi:io/streams@0.3.0"], &[plugin, instances])
                .contains("wasi:io/streams@0.3.0")
        );
        let refused = |imports: &[&str], exports: &[&str], why: &str| {
            let message = check(imports, exports);
            assert!(message.contains(why), "{why}: {message}");
        };
        // Which of its parts is missing, or that it is of another version: never the one for the
        // other.
        refused(&[], &[instances], "does not export landfall:policy/plugin@0.1.x");
        refused(&[], &[plugin], "neither landfall:policy/instances@0.1.x nor");
        refused(&[], &[], "does not export landfall:policy/plugin@0.1.x");
        let other = ["landfall:policy/plugin@0.2.0", "landfall:policy/instances@0.2.0"];
        refused(&[], &other, "exports landfall:policy/plugin@0.2.0; this Landfall speaks version");
        refused(&[], &[plugin, other[1]], "exports landfall:policy/instances@0.2.0; this Landfall");
        let log = "landfall:policy/log@0.2.0";
        refused(&[log], &[plugin, instances], "imports landfall:policy/log@0.2.0; this Landfall");
        let secrets = "landfall:policy/secrets@0.1.0";
        refused(&[secrets], &[plugin, instances], "of landfall:policy/ a policy may import log");
        // What of WASI there is.
        refused(&["wasi:http/types@0.2.0"], &[plugin, instances], "wasi:cli, wasi:clocks");
    }
}
