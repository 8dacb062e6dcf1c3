//! The `dispatch` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args
        .next()
        .is_some_and(|verb| verb == dispatch::exec::SUPERVISE)
    {
        return dispatch::exec::supervisor::main(args);
    }
    ExitCode::SUCCESS
}
