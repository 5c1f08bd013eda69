//! WASI 0.2 with nothing in it.
//!
//! Ordinary toolchains leave imports of WASI in what they build, used or not. So that their
//! components load, each import gets an answer here: clocks that stand still, a random generator
//! that starts anew with each call, no arguments, no environment, no folders. What a policy prints
//! becomes lines of its log. Anything else, such as a socket, ends the call and says its name.
//!
//! Written here rather than taken from `wasmtime-wasi`: that one waits on the real clock when a
//! guest subscribes to its timer, and a host call that waits cannot be interrupted.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, WasmList,
};
use wasmtime::{Engine, StoreContextMut};

use crate::fault::Refused;
use crate::state::{RANDOM_SEED, State, Stream};

/// What `check-write` offers. Guests write in pieces of this size.
const WRITE_BYTES_MAX: u64 = 4 << 10;
/// 2026-01-01T00:00:00Z: some libraries take 1970 for a mistake.
const WALL_CLOCK_SECONDS: u64 = 1_767_225_600;

// Tell resource types apart; there is nothing in them.
struct Pollable;
struct IoError;
struct InputStream;
struct OutputStream;
struct Descriptor;
struct TerminalInput;
struct TerminalOutput;
struct Other;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

type Context<'a> = StoreContextMut<'a, State>;
type Returned<T> = wasmtime::Result<(T,)>;

/// The packages of which imports get an answer, in any version 0.2.
pub(crate) const PACKAGES: [&str; 6] =
    ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random", "wasi:sockets"];

/// Whether imports of this name get an answer.
pub(crate) fn is_known(import: &str) -> bool {
    let Some((package, rest)) = import.split_once('/') else { return false };
    let version = rest.split_once('@').map_or("", |(_, version)| version);
    PACKAGES.contains(&package) && version.starts_with("0.2.")
}

/// Answers every import of WASI that `component` has.
pub(crate) fn link(
    linker: &mut Linker<State>,
    engine: &Engine,
    component: &Component,
) -> wasmtime::Result<()> {
    for (import, item) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(instance) = item.ty else { continue };
        if !is_known(import) {
            continue;
        }
        let interface = import.split('@').next().unwrap_or_default();
        let mut target = linker.instance(import)?;
        for (name, item) in instance.exports(engine) {
            match item.ty {
                ComponentItem::Resource(_) => {
                    let handle_dropped = |mut context: Context<'_>, _| {
                        context.data_mut().null.close_handle();
                        Ok(())
                    };
                    target.resource(name, resource_type(name), handle_dropped)?;
                }
                ComponentItem::ComponentFunc(_) => define(&mut target, interface, name)?,
                _ => (),
            }
        }
    }
    Ok(())
}

/// One type for each name, wherever it is imported: interfaces use each other's resources.
fn resource_type(name: &str) -> ResourceType {
    match name {
        "pollable" => ResourceType::host::<Pollable>(),
        "error" => ResourceType::host::<IoError>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        "terminal-input" => ResourceType::host::<TerminalInput>(),
        "terminal-output" => ResourceType::host::<TerminalOutput>(),
        _ => ResourceType::host::<Other>(),
    }
}

fn define(
    target: &mut LinkerInstance<'_, State>,
    interface: &str,
    name: &str,
) -> wasmtime::Result<()> {
    match interface {
        "wasi:cli/environment" => match name {
            "get-environment" => {
                return target.func_wrap(name, |_, ()| Ok((Vec::<(String, String)>::new(),)));
            }
            "get-arguments" => return target.func_wrap(name, |_, ()| Ok((Vec::<String>::new(),))),
            "initial-cwd" => return target.func_wrap(name, |_, ()| Ok((None::<String>,))),
            _ => (),
        },
        "wasi:cli/exit" if name == "exit" => {
            return target.func_wrap(
                name,
                |_, (status,): (Result<(), ()>,)| -> wasmtime::Result<()> {
                    let how = if status.is_ok() { "success" } else { "failure" };
                    Err(Refused(format!("the policy called exit (with {how})")).into())
                },
            );
        }
        "wasi:cli/stdin" if name == "get-stdin" => {
            return target
                .func_wrap(name, |mut c: Context<'_>, ()| handle::<InputStream>(&mut c, 0));
        }
        "wasi:cli/stdout" if name == "get-stdout" => {
            return target.func_wrap(name, |mut c: Context<'_>, ()| {
                handle::<OutputStream>(&mut c, Stream::Stdout as u32)
            });
        }
        "wasi:cli/stderr" if name == "get-stderr" => {
            return target.func_wrap(name, |mut c: Context<'_>, ()| {
                handle::<OutputStream>(&mut c, Stream::Stderr as u32)
            });
        }
        "wasi:cli/terminal-stdin" if name == "get-terminal-stdin" => {
            return target.func_wrap(name, |_, ()| Ok((None::<Resource<TerminalInput>>,)));
        }
        "wasi:cli/terminal-stdout" if name == "get-terminal-stdout" => {
            return target.func_wrap(name, |_, ()| Ok((None::<Resource<TerminalOutput>>,)));
        }
        "wasi:cli/terminal-stderr" if name == "get-terminal-stderr" => {
            return target.func_wrap(name, |_, ()| Ok((None::<Resource<TerminalOutput>>,)));
        }
        "wasi:filesystem/preopens" if name == "get-directories" => {
            return target
                .func_wrap(name, |_, ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)));
        }
        "wasi:io/streams" => return define_stream(target, name),
        "wasi:io/error" if name == "[method]error.to-debug-string" => {
            return target.func_wrap(name, |_, (_,): (Resource<IoError>,)| Ok((String::new(),)));
        }
        "wasi:io/poll" => match name {
            "[method]pollable.ready" => {
                return target.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok((true,)));
            }
            "[method]pollable.block" => {
                return target.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok(()));
            }
            // All are ready: time stands still, and streams never wait.
            "poll" => {
                return target.func_wrap(name, |_, (list,): (Vec<Resource<Pollable>>,)| {
                    let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
                    Ok(((0..count).collect::<Vec<u32>>(),))
                });
            }
            _ => (),
        },
        "wasi:clocks/monotonic-clock" => match name {
            "now" => return target.func_wrap(name, |_, ()| Ok((0_u64,))),
            "resolution" => return target.func_wrap(name, |_, ()| Ok((1_u64,))),
            "subscribe-instant" | "subscribe-duration" => {
                return target.func_wrap(name, |mut c: Context<'_>, (_,): (u64,)| {
                    handle::<Pollable>(&mut c, 0)
                });
            }
            _ => (),
        },
        "wasi:clocks/wall-clock" => match name {
            "now" => {
                return target.func_wrap(name, |_, ()| {
                    Ok((Datetime { seconds: WALL_CLOCK_SECONDS, nanoseconds: 0 },))
                });
            }
            "resolution" => {
                return target
                    .func_wrap(name, |_, ()| Ok((Datetime { seconds: 1, nanoseconds: 0 },)));
            }
            _ => (),
        },
        "wasi:random/random" | "wasi:random/insecure" => match name {
            "get-random-bytes" | "get-insecure-random-bytes" => {
                return target.func_wrap(name, |mut c: Context<'_>, (len,): (u64,)| {
                    c.data_mut().null.random_bytes(len).map(|bytes| (bytes,))
                });
            }
            "get-random-u64" | "get-insecure-random-u64" => {
                return target.func_wrap(name, |mut c: Context<'_>, ()| {
                    Ok((c.data_mut().null.random_u64(),))
                });
            }
            _ => (),
        },
        "wasi:random/insecure-seed" if name == "insecure-seed" => {
            return target.func_wrap(name, |_, ()| Ok(((RANDOM_SEED, RANDOM_SEED),)));
        }
        _ => (),
    }
    let refusal = format!("the policy called {interface}#{name}, which a policy has not");
    target.func_new(name, move |_, _, _, _| Err(Refused(refusal.clone()).into()))
}

fn define_stream(target: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<()> {
    type Output = Resource<OutputStream>;
    type Input = Resource<InputStream>;
    match name {
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => target
            .func_wrap(name, |_, (_, _): (Input, u64)| {
                Ok((Err::<Vec<u8>, _>(StreamError::Closed),))
            }),
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => target
            .func_wrap(name, |_, (_, _): (Input, u64)| Ok((Err::<u64, _>(StreamError::Closed),))),
        "[method]input-stream.subscribe" => target
            .func_wrap(name, |mut c: Context<'_>, (_,): (Input,)| handle::<Pollable>(&mut c, 0)),
        "[method]output-stream.subscribe" => target
            .func_wrap(name, |mut c: Context<'_>, (_,): (Output,)| handle::<Pollable>(&mut c, 0)),
        "[method]output-stream.check-write" => target
            .func_wrap(name, |_, (_,): (Output,)| Ok((Ok::<u64, StreamError>(WRITE_BYTES_MAX),))),
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => target
            .func_wrap(name, |mut c: Context<'_>, (stream, bytes): (Output, WasmList<u8>)| {
                print(&mut c, stream.rep(), &bytes);
                Ok((Ok::<(), StreamError>(()),))
            }),
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            target.func_wrap(name, |_, (_,): (Output,)| Ok((Ok::<(), StreamError>(()),)))
        }
        "[method]output-stream.write-zeroes"
        | "[method]output-stream.blocking-write-zeroes-and-flush" => {
            target.func_wrap(name, |_, (_, _): (Output, u64)| Ok((Ok::<(), StreamError>(()),)))
        }
        _ => {
            let refusal =
                format!("the policy called wasi:io/streams#{name}, which a policy has not");
            target.func_new(name, move |_, _, _, _| Err(Refused(refusal.clone()).into()))
        }
    }
}

/// `rep` is what the guest's handle stands for; it matters for streams that are written to.
fn handle<T: 'static>(context: &mut Context<'_>, rep: u32) -> Returned<Resource<T>> {
    context.data_mut().null.open_handle()?;
    Ok((Resource::new_own(rep),))
}

/// Copies no more than is kept, however much the guest writes.
fn print(context: &mut Context<'_>, stream: u32, bytes: &WasmList<u8>) {
    let written = bytes.as_le_slice(&*context);
    let kept = written[..written.len().min(context.data().null.room())].to_vec();
    let cut = kept.len() < written.len();
    let stream = if stream == Stream::Stderr as u32 { Stream::Stderr } else { Stream::Stdout };
    context.data_mut().null.print(stream, &kept, cut);
}
