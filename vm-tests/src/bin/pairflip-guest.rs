//! What runs in a virtual machine: as process 1 its init, else a helper of the scenarios.

use std::process::ExitCode;

use pairflip_vm_tests::guest;

#[expect(clippy::print_stderr, reason = "the caller reads it")]
fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["servers"] => guest::servers::run(),
        ["clients"] => guest::clients::run(),
        _ => {
            eprintln!("usage: pairflip-guest servers | clients");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
