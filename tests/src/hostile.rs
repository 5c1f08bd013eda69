//! Policies that do what a policy must not, written by hand against the canonical ABI.
//!
//! The texts are in `tests/hostile`. A comment at the head of each says what it does and what the host must do about it;
//! `prelude.wat` has what they share. Here they become components, and [`ALL`] says how far each one gets.

use std::error::Error;

use landfall_policy_host::componentize::{componentize, embed};

const CONTRACT: &str = include_str!("../../wit/landfall.wit");

const PRELUDE: &str = include_str!("../hostile/prelude.wat");

/// What a guest gets from the prelude unless it exports it itself.
const EXPORTS: [(&str, &str); 3] = [
    ("cabi_realloc", "$alloc"),
    ("landfall:policy/plugin@0.1.0#describe", "$describe"),
    ("landfall:policy/plugin@0.1.0#configure", "$configure"),
];
/// The same for one of the worlds.
const INSTANCES_EXPORTS: [(&str, &str); 2] = [
    ("landfall:policy/instances@0.1.0#decide", "$decide"),
    ("cabi_post_landfall:policy/instances@0.1.0#decide", "$forget"),
];
const SERVICES_EXPORTS: [(&str, &str); 2] = [
    ("landfall:policy/services@0.1.0#decide", "$settings"),
    ("cabi_post_landfall:policy/services@0.1.0#decide", "$forget"),
];

/// How far a guest gets before it fails, in a host that keeps to its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is refused before anything of it runs: for its imports, exports, types, or the memory it begins with.
    Load,
    /// While it is instantiated: its start function.
    Start,
    /// `describe`.
    Describe,
    /// `configure`: it does not answer with ok.
    Configure,
    /// Every call of `decide` for at least one instance.
    Decide,
    /// Those calls of `decide` that have an instance with the id `poison`.
    Poison,
    /// Every call of `decide` for a service.
    Service,
    /// The canonical ABI has nothing against it: what happens is for the host's own rules to say. See the guest's text.
    Judgement,
}

/// One hostile policy.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// The name of its file without the ending.
    pub name: &'static str,
    /// Where it fails.
    pub fails: Stage,
    /// The code of its refusal, or of the fault of an instance that it is asked about alone. Empty where the host has to
    /// judge.
    pub code: &'static str,
    text: &'static str,
    contract: Contract,
}

/// The world that a guest is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    Instances,
    Services,
}

/// What the contract that a guest claims to be made for has changed from the real one.
#[derive(Clone, Copy, Debug)]
enum Contract {
    Real,
    /// The world has one more import, of an interface that this package defines.
    Import {
        import: &'static str,
        package: &'static str,
    },
    /// `log` has one more function.
    LogFunction(&'static str),
    /// The world does not export `instances`.
    NoInstances,
    /// The last field of this record is missing.
    Short {
        record: &'static str,
    },
}

/// A guest whose file is named like it.
macro_rules! guest {
    ($name:literal, Judgement) => {
        guest!($name, Judgement, "")
    };
    ($name:literal, $fails:ident, $code:literal) => {
        guest!($name, $fails, $code, Contract::Real)
    };
    ($name:literal, $fails:ident, $code:literal, $contract:expr) => {
        Guest {
            name: $name,
            fails: Stage::$fails,
            code: $code,
            text: include_str!(concat!("../hostile/", $name, ".wat")),
            contract: $contract,
        }
    };
}

/// The prelude's harmless answers as a policy, for comparison.
pub const HARMLESS: Guest = guest!("harmless", Judgement);

/// Every hostile guest, in the order in which they fail.
pub const ALL: &[Guest] = &[
    guest!("missing-export", Load, "world_mismatch", Contract::NoInstances),
    guest!(
        "unknown-import",
        Load,
        "imports_denied",
        Contract::Import {
            import: "evil:host/shell@1.0.0",
            package: "package evil:host@1.0.0 { interface shell { run: func(command: string); } }",
        }
    ),
    guest!(
        "unknown-wasi",
        Load,
        "imports_denied",
        Contract::Import {
            import: "wasi:http/egress@0.2.6",
            package: "package wasi:http@0.2.6 { interface egress { fetch: func(url: string); } }",
        }
    ),
    guest!(
        "unknown-function",
        Load,
        "world_mismatch",
        Contract::LogFunction("erase: func(text: string);")
    ),
    guest!("short-descriptor", Load, "world_mismatch", Contract::Short { record: "descriptor" }),
    guest!("short-instance", Load, "world_mismatch", Contract::Short { record: "instance" }),
    guest!("memory-at-start", Load, "memory"),
    guest!("many-memories", Load, "memory"),
    guest!("many-modules", Load, "instantiate_failed"),
    guest!("sparse-memories", Load, "instantiate_failed"),
    guest!("doubling-components", Load, "structure"),
    guest!("loop-start", Start, "deadline"),
    guest!("trap-start", Start, "instantiate_failed"),
    guest!("loop-describe", Describe, "deadline"),
    guest!("giant-describe", Describe, "describe_failed"),
    guest!("loop-configure", Configure, "deadline"),
    guest!("trap-configure", Configure, "configure_failed"),
    guest!("configure-refuses", Configure, "config_invalid"),
    guest!("configure-refuses-silently", Configure, "config_invalid"),
    guest!("realloc-outside", Configure, "configure_failed"),
    guest!("realloc-loop", Configure, "deadline"),
    guest!("log-in-realloc", Configure, "configure_failed"),
    guest!("loop-decide", Decide, "deadline"),
    guest!("loop-fill", Decide, "deadline"),
    guest!("trap-decide", Decide, "trap"),
    guest!("slow-trap", Decide, "trap"),
    guest!("memory-growth", Decide, "memory"),
    guest!("memory-loop", Decide, "deadline"),
    guest!("table-growth", Decide, "memory"),
    guest!("deep-recursion", Decide, "stack"),
    guest!("giant-list", Decide, "output"),
    guest!("giant-string", Decide, "output"),
    guest!("aliased-split", Decide, "output"),
    guest!("long-places", Decide, "verdict_illegal"),
    guest!("result-outside", Decide, "trap"),
    guest!("result-unaligned", Decide, "trap"),
    guest!("list-outside", Decide, "trap"),
    guest!("too-few-verdicts", Decide, "verdict_count"),
    guest!("too-many-verdicts", Decide, "verdict_count"),
    guest!("invalid-utf8", Decide, "trap"),
    guest!("invalid-case", Decide, "trap"),
    guest!("log-bad-level", Decide, "trap"),
    guest!("post-loop", Decide, "deadline"),
    guest!("post-trap", Decide, "trap"),
    guest!("log-giant-line", Decide, "output"),
    guest!("decide-error", Decide, "policy_error"),
    guest!("loop-on-poison", Poison, "deadline"),
    guest!("trap-on-poison", Poison, "trap"),
    guest!("service-trap", Service, "trap"),
    guest!("service-loop", Service, "deadline"),
    guest!("service-giant", Service, "output"),
    guest!("service-many", Service, "verdict_illegal"),
    guest!("service-error", Service, "policy_error"),
    guest!("service-illegal", Judgement),
    guest!("unknown-reads", Judgement),
    guest!("illegal-names", Judgement),
    guest!("drop-all", Judgement),
    guest!("many-places", Judgement),
    guest!("counts-calls", Judgement),
    guest!("leak", Judgement),
    guest!("trap-when-used", Judgement),
    guest!("slow-decide", Judgement),
    guest!("log-flood", Judgement),
    guest!("log-long-line", Judgement),
];

/// The component of a guest of [`ALL`], or of [`HARMLESS`], by its name.
///
/// # Panics
///
/// When there is no such guest, or no component can be made of its text: a test cannot go on then.
#[allow(clippy::panic, reason = "only tests call it")]
#[must_use]
pub fn hostile(name: &str) -> Vec<u8> {
    let Some(guest) = ALL.iter().chain([&HARMLESS]).find(|guest| guest.name == name) else {
        panic!("tests/hostile has no guest {name}");
    };
    guest.component().unwrap_or_else(|error| panic!("tests/hostile/{name}.wat: {error}"))
}

// === impl Guest ===

impl Guest {
    fn component(&self) -> Result<Vec<u8>, Box<dyn Error>> {
        // A whole component is one that stands beside a harmless guest.
        if self.is_whole("(component") {
            return beside(HARMLESS.component()?, &wat::parse_str(self.text)?);
        }
        let module = wat::parse_str(self.module())?;
        let module = embed(&module, &self.contract.text(), self.world().name())?;
        Ok(componentize(&module).map_err(|error| chain(&error))?)
    }

    /// The text of the core module.
    fn module(&self) -> String {
        if self.is_whole("(module") {
            return self.text.to_owned();
        }
        let mut module = format!("(module\n{PRELUDE}\n{}\n", self.text);
        for (export, function) in EXPORTS.iter().chain(self.world().exports()) {
            if !self.text.contains(&format!("{export:?}")) {
                module += &format!("(export {export:?} (func {function}))\n");
            }
        }
        module + ")"
    }

    fn world(&self) -> World {
        if self.name.starts_with("service-") { World::Services } else { World::Instances }
    }

    /// Whether the text, after the comment at its head, begins like this.
    fn is_whole(&self, begin: &str) -> bool {
        self.text
            .lines()
            .find(|line| !line.starts_with(";;"))
            .is_some_and(|line| line.starts_with(begin))
    }
}

// === impl World ===

impl World {
    const fn name(self) -> &'static str {
        match self {
            Self::Instances => "instance-policy",
            Self::Services => "service-policy",
        }
    }

    const fn exports(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Instances => &INSTANCES_EXPORTS,
            Self::Services => &SERVICES_EXPORTS,
        }
    }
}

// === impl Contract ===

impl Contract {
    /// The contract's text with the change made.
    fn text(self) -> String {
        // All that are made for another contract are of one world.
        let world = format!("world {} {{", World::Instances.name());
        match self {
            Self::Real => CONTRACT.to_owned(),
            Self::Import { import, package } => {
                replace(CONTRACT, &world, &format!("{world}\n  import {import};")) + "\n" + package
            }
            Self::LogFunction(function) => {
                replace(CONTRACT, "interface log {", &format!("interface log {{\n  {function}"))
            }
            Self::NoInstances => {
                let (before, after) = split(CONTRACT, &world);
                format!("{before}{world}{}", replace(after, "export instances;", ""))
            }
            Self::Short { record } => {
                let head = format!("record {record} {{");
                let (before, after) = split(CONTRACT, &head);
                let (body, rest) = split(after, "}");
                let fields = body.trim_end().trim_end_matches(',');
                let (kept, _) = fields.rsplit_once('\n').unwrap_or_default();
                format!("{before}{head}{kept}\n  }}{rest}")
            }
        }
    }
}

/// Replaces what has to be there, once.
fn replace(text: &str, from: &str, to: &str) -> String {
    let (before, after) = split(text, from);
    format!("{before}{to}{after}")
}

#[allow(clippy::panic, reason = "only tests call it")]
fn split<'a>(text: &'a str, at: &str) -> (&'a str, &'a str) {
    text.split_once(at).unwrap_or_else(|| {
        panic!("wit/landfall.wit no longer has {at:?}; tests/src/hostile.rs edits it")
    })
}

/// The error with its sources, of which the last says most.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Puts a component into another one, at its end, and has it instantiated there.
///
/// A component is a row of sections: an id, the length as LEB128, the content. Appending some changes no index.
fn beside(mut outer: Vec<u8>, inner: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    /// The sections of nested components and of component instances.
    const COMPONENT: u8 = 4;
    const INSTANCE: u8 = 5;

    let mut components: u32 = 0;
    let mut rest = outer.get(8..).unwrap_or_default();
    while let Some((&id, after)) = rest.split_first() {
        components += u32::from(id == COMPONENT);
        let (len, after) = read_leb(after).ok_or("a section has no length")?;
        rest = after.get(len as usize..).ok_or("a section is longer than the component")?;
    }

    let mut append = |id: u8, content: &[u8]| -> Result<(), Box<dyn Error>> {
        outer.push(id);
        write_leb(u32::try_from(content.len())?, &mut outer);
        outer.extend_from_slice(content);
        Ok(())
    };
    append(COMPONENT, inner)?;
    // One instance: of a component, which one, with no arguments.
    let mut instance = vec![1, 0];
    write_leb(components, &mut instance);
    instance.push(0);
    append(INSTANCE, &instance)?;
    Ok(outer)
}

fn read_leb(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        number |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

fn write_leb(mut number: u32, bytes: &mut Vec<u8>) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_becomes_a_component() {
        for guest in ALL.iter().chain([&HARMLESS]) {
            assert!(hostile(guest.name).starts_with(b"\0asm\x0d"), "{}", guest.name);
        }
    }

    #[test]
    fn every_file_is_a_guest_and_says_what_the_host_must_do() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/hostile");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(
                name == "prelude"
                    || name == "harmless"
                    || ALL.iter().any(|guest| guest.name == name),
                "{name}"
            );
        }
        for guest in ALL {
            assert!(
                guest.text.starts_with(";; ") && guest.text.contains("\n;; The host: "),
                "{}",
                guest.name
            );
        }
    }
}
