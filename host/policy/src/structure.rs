//! The structure of a component: what compiling it and making instances of it will cost, worked out
//! before either is done.
//!
//! Invariant: one walk over the bytes, in memory that is a small multiple of them. Sums saturate,
//! so a component that contains itself a thousandfold is counted as fast as any other.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentTypeRef, ElementItems, Encoding, FunctionBody, Instance,
    Parser, Payload, TypeSectionReader,
};

use crate::artifact::{COMPONENT_BYTES_MAX, Outside};
use crate::refusal::AdmissionError;

// The largest honest components known are Python's (componentize-py 0.25.1, all of CPython: 38
// modules, 13,484 functions) and JavaScript's (StarlingMonkey of componentize-js 0.23.0, 12,584
// functions, and its variant for weval, 19,852). What they have most of stands beside each limit.
const MODULES_MAX: u64 = 200;
const FUNCTIONS_MAX: u64 = 200_000;
/// Python: 427 KB.
const FUNCTION_BYTES_MAX: u64 = 1 << 20;

// The compiler makes a variable of each local and carries it through each block, so what it needs
// grows with the product of a function's bytes and its variables. A function of 900 KB with 500
// locals took it 32 s and 1.2 GB, one of 63 KB with 1000 locals 4.3 s. What a block takes and
// returns is carried in the same way, and any type of the module may be a block's.
/// Variables of one function: its locals and parameters, and those of the module's widest type.
/// Python: 292; JavaScript: 140, and with weval 505.
const VARIABLES_MAX: u64 = 512;
/// What a function costs that has none, in variables: one of 400 KB without any, of empty blocks,
/// took 20 s on a busy machine.
const VARIABLES_BASE: u64 = 16;
/// What a function costs that is empty, in bytes: 200,000 of them took 32 s on a busy machine.
const FUNCTION_BYTES_BASE: u64 = 64;
/// Bytes times variables of one function, each with its base. Without the bases, JavaScript: 12
/// million, Python: 8 million; the two bombs above have 450 and 63 million.
const FUNCTION_WORK_MAX: u64 = 1 << 24;
/// The sum of these products. Without the bases, JavaScript: 327 million, with weval 442, Python: 208
/// million. Cut into functions of at most `FUNCTION_WORK_MAX`, 450 million took 5.4 s.
const WORK_MAX: u64 = 1 << 30;

// For each type of a function the compiler makes a trampoline, used or not, which moves each of its
// parameters and results: 2000 types of 500 parameters, 1 MB, took 13 s on a busy machine.
/// Types of functions in all modules.
const TYPES_MAX: u64 = 50_000;
/// Parameters and results of all of these types.
const TYPE_VALUES_MAX: u64 = 300_000;

// A component that instantiates another one twice, which does the same, and so on, has 2^n
// instances after n lines, and wasmtime writes each of them out when it compiles.
/// Instances of modules and components, all told. A store has at most 200 of modules (`limits`).
/// Python: 41.
const INSTANCES_MAX: u64 = 400;
/// Imports, exports, aliases, adapters and arguments, each once for each instance of the component
/// that it is in. Python: 3,200.
const ENTRIES_MAX: u64 = 100_000;
/// Globals, functions, imports and elements of segments, each once for each instance of its module:
/// a store has up to 32 bytes for each, which no limit on memories counts. Two hundred instances of
/// a module of a million globals would be 3.2 GB; this is 16 MB. JavaScript: 28,000, Python:
/// 23,000.
const SLOTS_MAX: u64 = 500_000;

/// What one instance of something comes to, with all instances inside of it.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    instances: u64,
    entries: u64,
    slots: u64,
}

/// A module or component that has begun and not ended.
#[derive(Debug)]
enum Scope {
    Module(Module),
    Component(Component),
}

#[derive(Debug, Default)]
struct Module {
    /// How many parameters each type has.
    type_params: Vec<u64>,
    /// Parameters and results of the type that has most.
    widest: u64,
    /// The type of each function that has a body.
    types: Vec<u32>,
    /// How many bodies were seen.
    bodies: usize,
    slots: u64,
}

/// What has no cost comes from outside as an argument: it may not be instantiated.
#[derive(Debug, Default)]
struct Component {
    modules: Vec<Option<Cost>>,
    components: Vec<Option<Cost>>,
    cost: Cost,
}

/// A component as far as it was read.
#[derive(Debug, Default)]
struct Examination {
    scopes: Vec<Scope>,
    modules: u64,
    functions: u64,
    types: u64,
    type_values: u64,
    work: u64,
    outside: Outside,
}

/// Reads the structure of a component. The compiler validates; this bounds what it is given.
pub(crate) fn examined(bytes: &[u8]) -> Result<Outside, AdmissionError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(AdmissionError::TooLarge {
            what: "the component",
            len: bytes.len(),
            max: COMPONENT_BYTES_MAX,
        });
    }
    let mut examination = Examination::default();
    for payload in Parser::new(0).parse_all(bytes) {
        examination.take(payload.map_err(unreadable)?)?;
    }
    Ok(examination.outside)
}

fn unreadable(error: BinaryReaderError) -> AdmissionError {
    AdmissionError::NotAComponent { problem: error.to_string() }
}

fn within(what: &'static str, found: u64, max: u64) -> Result<(), AdmissionError> {
    if found > max { Err(AdmissionError::Structure { what, found, max }) } else { Ok(()) }
}

// === impl Examination ===

impl Examination {
    fn take(&mut self, payload: Payload<'_>) -> Result<(), AdmissionError> {
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } if self.scopes.is_empty() => {
                return Err(AdmissionError::NotAComponent {
                    problem: "it is a core module; make a component of it with `landfall policy \
                              componentize`"
                        .to_owned(),
                });
            }
            Payload::Version { encoding: Encoding::Module, .. } => {
                self.scopes.push(Scope::Module(Module::default()));
            }
            Payload::Version { encoding: Encoding::Component, .. } => {
                self.scopes.push(Scope::Component(Component::default()));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                self.modules += 1;
                within("core modules and components inside", self.modules, MODULES_MAX)?;
            }
            Payload::End(_) => self.end(),
            payload => return self.take_section(payload),
        }
        Ok(())
    }

    fn take_section(&mut self, payload: Payload<'_>) -> Result<(), AdmissionError> {
        let outermost = self.scopes.len() == 1;
        match payload {
            Payload::ComponentImportSection(ref section) if outermost => {
                for import in section.clone() {
                    self.outside.imports.push(import.map_err(unreadable)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(ref section) if outermost => {
                for export in section.clone() {
                    self.outside.exports.push(export.map_err(unreadable)?.name.name.to_owned());
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    self.alias(&alias.map_err(unreadable)?)?;
                }
                return Ok(());
            }
            Payload::CodeSectionStart { count, .. } => {
                self.functions = self.functions.saturating_add(u64::from(count));
                return within("functions", self.functions, FUNCTIONS_MAX);
            }
            _ => (),
        }
        match self.scopes.last_mut() {
            Some(Scope::Component(component)) => component.take(payload),
            Some(Scope::Module(module)) => match payload {
                Payload::CodeSectionEntry(body) => {
                    self.work = self.work.saturating_add(module.body(&body)?);
                    within("bytes times variables of all functions", self.work, WORK_MAX)
                }
                Payload::TypeSection(section) => {
                    self.types = self.types.saturating_add(u64::from(section.count()));
                    within("types of functions", self.types, TYPES_MAX)?;
                    self.type_values = self.type_values.saturating_add(module.types(section)?);
                    let what = "parameters and results of all types of functions";
                    within(what, self.type_values, TYPE_VALUES_MAX)
                }
                payload => module.take(payload),
            },
            None => Ok(()),
        }
    }

    /// Hands what has ended to the component that it is in.
    fn end(&mut self) {
        let ended = self.scopes.pop();
        let Some(Scope::Component(parent)) = self.scopes.last_mut() else { return };
        match ended {
            Some(Scope::Module(module)) => parent.modules.push(Some(module.cost())),
            Some(Scope::Component(component)) => parent.components.push(Some(component.cost)),
            None => (),
        }
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) -> Result<(), AdmissionError> {
        let (mut module, mut component) = (None, None);
        match *alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
                module = Some(None);
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                component = Some(None);
            }
            ComponentAlias::Outer { kind, count, index } => {
                let outer = self.scopes.iter().rev().nth(count as usize);
                let index = index as usize;
                if let Some(Scope::Component(outer)) = outer {
                    match kind {
                        ComponentOuterAliasKind::CoreModule => {
                            module = Some(outer.modules.get(index).copied().flatten());
                        }
                        ComponentOuterAliasKind::Component => {
                            component = Some(outer.components.get(index).copied().flatten());
                        }
                        _ => (),
                    }
                }
            }
            _ => (),
        }
        let Some(Scope::Component(current)) = self.scopes.last_mut() else { return Ok(()) };
        current.modules.extend(module);
        current.components.extend(component);
        current.add_entries(1)
    }
}

// === impl Component ===

impl Component {
    fn take(&mut self, payload: Payload<'_>) -> Result<(), AdmissionError> {
        match payload {
            Payload::InstanceSection(section) => {
                for instance in section {
                    match instance.map_err(unreadable)? {
                        Instance::Instantiate { module_index, args } => {
                            self.add_entries(args.len())?;
                            self.add_instance(self.modules.get(module_index as usize).copied())?;
                        }
                        Instance::FromExports(exports) => self.add_entries(exports.len())?,
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    match instance.map_err(unreadable)? {
                        ComponentInstance::Instantiate { component_index, args } => {
                            self.add_entries(args.len())?;
                            let index = component_index as usize;
                            self.add_instance(self.components.get(index).copied())?;
                        }
                        ComponentInstance::FromExports(exports) => {
                            self.add_entries(exports.len())?;
                        }
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    match import.map_err(unreadable)?.ty {
                        ComponentTypeRef::Module(_) => self.modules.push(None),
                        ComponentTypeRef::Component(_) => self.components.push(None),
                        _ => (),
                    }
                    self.add_entries(1)?;
                }
            }
            // What is exported gets one more index.
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export.map_err(unreadable)?;
                    let index = export.index as usize;
                    match export.kind {
                        ComponentExternalKind::Module => {
                            self.modules.push(self.modules.get(index).copied().flatten());
                        }
                        ComponentExternalKind::Component => {
                            self.components.push(self.components.get(index).copied().flatten());
                        }
                        _ => (),
                    }
                    self.add_entries(1)?;
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                self.add_entries(section.count() as usize)?;
            }
            _ => (),
        }
        Ok(())
    }

    fn add_entries(&mut self, count: usize) -> Result<(), AdmissionError> {
        self.add(Cost { entries: count as u64, ..Cost::default() })
    }

    /// Adds an instance of what has this cost, if it is known.
    fn add_instance(&mut self, cost: Option<Option<Cost>>) -> Result<(), AdmissionError> {
        // No toolchain passes modules or components around, and what comes of it could only be
        // known by following them.
        let Some(Some(inside)) = cost else {
            let what = "instances of modules or components that come in as arguments";
            return within(what, 1, 0);
        };
        self.add(Cost { instances: 1, entries: 1, slots: 0 })?;
        self.add(inside)
    }

    fn add(&mut self, Cost { instances, entries, slots }: Cost) -> Result<(), AdmissionError> {
        let cost = &mut self.cost;
        cost.instances = cost.instances.saturating_add(instances);
        cost.entries = cost.entries.saturating_add(entries);
        cost.slots = cost.slots.saturating_add(slots);
        within("instances of modules and components", cost.instances, INSTANCES_MAX)?;
        within("imports, exports and aliases of all instances", cost.entries, ENTRIES_MAX)?;
        within("globals, functions and elements of all instances", cost.slots, SLOTS_MAX)
    }
}

// === impl Module ===

impl Module {
    fn take(&mut self, payload: Payload<'_>) -> Result<(), AdmissionError> {
        match payload {
            Payload::FunctionSection(section) => {
                within("functions", u64::from(section.count()), FUNCTIONS_MAX)?;
                for ty in section {
                    self.types.push(ty.map_err(unreadable)?);
                }
                self.slots += self.types.len() as u64;
            }
            Payload::ImportSection(section) => self.slots += u64::from(section.count()),
            Payload::GlobalSection(section) => self.slots += u64::from(section.count()),
            Payload::ElementSection(section) => {
                for element in section {
                    let count = match element.map_err(unreadable)?.items {
                        ElementItems::Functions(functions) => functions.count(),
                        ElementItems::Expressions(_, expressions) => expressions.count(),
                    };
                    self.slots += u64::from(count);
                }
            }
            _ => (),
        }
        Ok(())
    }

    /// The parameters and results of these types.
    fn types(&mut self, section: TypeSectionReader<'_>) -> Result<u64, AdmissionError> {
        let mut values: u64 = 0;
        for ty in section.into_iter_err_on_gc_types() {
            let ty = ty.map_err(unreadable)?;
            let (params, results) = (ty.params().len() as u64, ty.results().len() as u64);
            self.type_params.push(params);
            self.widest = self.widest.max(params + results);
            values = values.saturating_add(params + results);
        }
        Ok(values)
    }

    /// The work that the next body is for the compiler.
    fn body(&mut self, body: &FunctionBody<'_>) -> Result<u64, AdmissionError> {
        let bytes = body.range().len() as u64;
        within("bytes of one function", bytes, FUNCTION_BYTES_MAX)?;
        let ty = self.types.get(self.bodies);
        self.bodies += 1;
        let params = ty.and_then(|&ty| self.type_params.get(ty as usize)).copied().unwrap_or(0);
        let mut variables = params + self.widest;
        for local in body.get_locals_reader().map_err(unreadable)? {
            let (count, _) = local.map_err(unreadable)?;
            variables = variables.saturating_add(u64::from(count));
        }
        within("locals and parameters of one function", variables, VARIABLES_MAX)?;
        let work = (bytes + FUNCTION_BYTES_BASE) * (variables + VARIABLES_BASE);
        within("bytes times variables of one function", work, FUNCTION_WORK_MAX)?;
        Ok(work)
    }

    fn cost(&self) -> Cost {
        Cost { instances: 0, entries: 0, slots: self.slots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ok`, the code of a refusal, or what there was too much of.
    fn refusal(text: &str) -> String {
        let bytes = wat::parse_str(text).unwrap();
        match examined(&bytes) {
            Ok(_) => "ok".to_owned(),
            Err(AdmissionError::Structure { what, .. }) => what.to_owned(),
            Err(error) => error.code().to_owned(),
        }
    }

    fn module(text: &str) -> String {
        refusal(&format!("(component (core module {text}))"))
    }

    #[test]
    fn what_is_no_component_is_refused() {
        assert_eq!(refusal("(module)"), "not_a_component");
        for bytes in [&b"hello"[..], &[]] {
            assert_eq!(examined(bytes).unwrap_err().code(), "not_a_component");
        }
        assert_eq!(
            refusal(&format!("(component {})", "(core module)".repeat(201))),
            "core modules and components inside"
        );
    }

    #[test]
    fn what_the_compiler_would_choke_on_is_refused() {
        let func = |params: usize, locals: usize, blocks: usize| {
            let params = "(param i32)".repeat(params);
            let locals = "(local i64)".repeat(locals);
            let blocks = "(block nop)".repeat(blocks);
            format!("(func {params} {locals} {blocks})")
        };
        assert_eq!(module(&func(0, 513, 0)), "locals and parameters of one function");
        assert_eq!(module(&func(300, 0, 0)), "locals and parameters of one function");
        // A block may have any type of the module.
        let wide = format!("(type (func (param {})))", "i32 ".repeat(513));
        assert_eq!(module(&format!("{wide} (func)")), "locals and parameters of one function");
        // The bombs that were measured had 900 KB with 500 locals, and 63 KB with 1000; this one
        // has 63 KB with 500. A block is four bytes.
        assert_eq!(module(&func(0, 500, 63_000 / 4)), "bytes times variables of one function");
        // Functions as large as honest ones are taken: in JavaScript 76 KB with 118 locals, in
        // Python 427 KB with none.
        assert_eq!(module(&func(4, 118, 76_000 / 4)), "ok");
        assert_eq!(module(&func(9, 0, 427_000 / 4)), "ok");
        // Without any variable it takes the compiler its time, too.
        assert_eq!(
            module(&func(0, 0, (1 << 20) / 4 - 10)),
            "bytes times variables of one function"
        );
        // The same bomb in pieces.
        let pieces = func(0, 400, 40_000 / 4).repeat(70);
        assert_eq!(module(&pieces), "bytes times variables of all functions");
    }

    #[test]
    fn types_that_nothing_uses_are_counted() {
        let types = |count: usize, params: usize| {
            let ty = format!("(type (func (param {})))", "i32 ".repeat(params));
            refusal(&format!(
                "(component {})",
                format!("(core module {})", ty.repeat(count)).repeat(2)
            ))
        };
        assert_eq!(types(25_000, 1), "ok");
        assert_eq!(types(25_001, 1), "types of functions");
        assert_eq!(types(1_500, 100), "ok");
        assert_eq!(types(1_501, 100), "parameters and results of all types of functions");
    }

    #[test]
    fn instances_that_double_are_counted_without_being_made() {
        let doubling = |levels: usize, innermost: &str| {
            let mut text = format!("(component $c0 {innermost})");
            for level in 1..=levels {
                let below = level - 1;
                text += &format!(
                    "(component $c{level} (alias outer 1 $c{below} (component $c))
                       (instance (instantiate $c)) (instance (instantiate $c)))"
                );
            }
            format!("(component {text} (instance (instantiate $c{levels})))")
        };
        let instances = "instances of modules and components";
        assert_eq!(refusal(&doubling(5, "")), "ok");
        assert_eq!(refusal(&doubling(9, "")), instances);
        assert_eq!(refusal(&doubling(100, "")), instances);
        let module = "(core module $m) (core instance (instantiate $m))";
        assert_eq!(refusal(&doubling(6, module)), "ok");
        assert_eq!(refusal(&doubling(8, module)), instances);
        // The same by an export of the same component, which makes a second index of it.
        assert_eq!(
            refusal(
                "(component (component $a) (export $b \"b\" (component $a))
                   (instance (instantiate $b)))"
            ),
            "ok"
        );
        // What is handed in could double in ways that do not show.
        let handed = "(component (component $a (import \"x\" (component $x))
            (instance (instantiate $x))))";
        assert_eq!(refusal(handed), "instances of modules or components that come in as arguments");
        let handed = "(component (component $a (import \"x\" (core module $x))
            (core instance (instantiate $x))))";
        assert_eq!(refusal(handed), "instances of modules or components that come in as arguments");
    }

    #[test]
    fn what_instances_hold_outside_of_memories_is_bounded() {
        let many = |module: &str, instances: usize| {
            let instances = "(core instance (instantiate $m))".repeat(instances);
            refusal(&format!("(component (core module $m {module}) {instances})"))
        };
        let slots = "globals, functions and elements of all instances";
        let globals = "(global i32 (i32.const 0))".repeat(10_000);
        assert_eq!(many(&globals, 49), "ok");
        assert_eq!(many(&globals, 51), slots);
        let functions = "(func)".repeat(10_000);
        assert_eq!(many(&functions, 51), slots);
        let elements = format!("(func $f) (elem func {})", "$f ".repeat(10_000));
        assert_eq!(many(&elements, 51), slots);
        let aliases = "(alias core export $i \"m\" (core memory))".repeat(1_000);
        let component = format!(
            "(component $c (core module $m (memory (export \"m\") 1))
               (core instance $i (instantiate $m)) {aliases})"
        );
        let instances = "(instance (instantiate $c))".repeat(110);
        assert_eq!(
            refusal(&format!("(component {component} {instances})")),
            "imports, exports and aliases of all instances"
        );
    }

    #[test]
    fn names_of_the_outermost_component_are_read() {
        let text = r#"(component (import "a" (func $f))
            (component (import "b" (func)) )
            (export "c" (func $f)))"#;
        let outside = examined(&wat::parse_str(text).unwrap()).unwrap();
        assert_eq!((outside.imports, outside.exports), (vec!["a".into()], vec!["c".into()]));
    }
}
