//! What a cluster hands over: objects that were written by others, and policies in ConfigMaps.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use landfall_mesh::api::{ApiVersion, Owner, Read, from_json, from_yaml, to_json};
use landfall_mesh::testing::objects;
use landfall_mesh::validate::validate;
use landfall_policy_host::{
    AdmissionError, Candidate, EngineSettings, Limits, PolicyEngine, Revision,
};
use serde_json::Value;

use super::draw::Draw;
use super::mutate;
use crate::hostile::hostile;

/// Guests that are small and get as far as they can.
const GUESTS: [&str; 4] = ["harmless", "many-memories", "trap-start", "configure-refuses"];
/// As a ConfigMap has them: raw, or as a frame of zstd that begins to be one.
const ZSTD_HEAD: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
/// The most that a block of zstd holds.
const ZSTD_BLOCK_MAX: usize = 128 << 10;

/// What is read.
enum Handed {
    Manifest(Vec<u8>),
    Component(Vec<u8>),
}

/// The manifest, or the bytes of the component.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    match handed(bytes) {
        Handed::Manifest(manifest) => String::from_utf8_lossy(&manifest).into_owned(),
        Handed::Component(component) => component.escape_ascii().to_string(),
    }
}

/// Reads what `bytes` stand for.
///
/// # Panics
/// What was read is not the same once it is printed and read again, or the host panicked.
pub fn run(bytes: &[u8]) {
    match handed(bytes) {
        Handed::Manifest(manifest) => {
            let text = String::from_utf8_lossy(&manifest);
            let json = serde_json::from_str::<Value>(&text).ok().map(from_json);
            for read in json.into_iter().chain([from_yaml(&text)]).flatten() {
                check(&read);
            }
        }
        Handed::Component(bytes) => {
            let limits = Limits {
                time_max: Duration::from_millis(20),
                configure_time_max: Duration::from_millis(100),
                ..Limits::default()
            };
            let candidate =
                Candidate { name: "fuzz".into(), bytes: &bytes, settings_json: "{}", limits };
            let refused = Revision::admit(engine(), candidate).err();
            assert!(!matches!(refused, Some(AdmissionError::HostPanic)), "the host panicked");
        }
    }
}

fn check(read: &Read) {
    // That it is judged is enough: nobody says that others write what is legal.
    let _judged = validate(&read.object);
    let owner = Owner::parse("fuzz").expect("a legal name");
    let Ok(json) = to_json(&read.object, &owner, ApiVersion::V1) else { return };
    let again = from_json(json.clone());
    assert_eq!(again.map(|again| again.object).ok().as_ref(), Some(&read.object), "{json}");
}

fn handed(bytes: &[u8]) -> Handed {
    let mut draw = Draw::new(bytes);
    if draw.once_in(4) {
        let mut component = draw.one_of(components()).clone();
        mutate::binary(&mut component, &mut draw);
        if draw.once_in(4) {
            component = packed(&component);
            mutate::binary(&mut component, &mut draw);
        }
        return Handed::Component(component);
    }
    let mut value = draw.one_of(manifests()).clone();
    mutate::value(&mut value, &mut draw);
    let mut manifest = mutate::printed(&value, &mut draw).into_bytes();
    mutate::bytes(&mut manifest, &mut draw);
    Handed::Manifest(manifest)
}

/// A frame of zstd with the bytes as they are.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut frame = ZSTD_HEAD.to_vec();
    let mut chunks = bytes.chunks(ZSTD_BLOCK_MAX).peekable();
    while let Some(chunk) = chunks.next() {
        let head = chunk.len() << 3 | usize::from(chunks.peek().is_none());
        frame.extend(&head.to_le_bytes()[..3]);
        frame.extend(chunk);
    }
    frame
}

fn engine() -> &'static Arc<PolicyEngine> {
    static ENGINE: OnceLock<Arc<PolicyEngine>> = OnceLock::new();
    ENGINE.get_or_init(|| PolicyEngine::start(EngineSettings::default()).expect("an engine"))
}

fn components() -> &'static [Vec<u8>] {
    static COMPONENTS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    COMPONENTS.get_or_init(|| GUESTS.iter().map(|name| hostile(name)).collect())
}

fn manifests() -> &'static [Value] {
    static MANIFESTS: OnceLock<Vec<Value>> = OnceLock::new();
    MANIFESTS.get_or_init(|| {
        let owner = Owner::parse("fuzz").expect("a legal name");
        let printed = |object| to_json(object, &owner, ApiVersion::V1).expect("it prints");
        objects(7, 60).iter().map(printed).collect()
    })
}
