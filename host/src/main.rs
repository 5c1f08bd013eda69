//! The `landfall` program; see the crate `landfall-runtime`.

fn main() -> std::process::ExitCode {
    landfall_runtime::main()
}
