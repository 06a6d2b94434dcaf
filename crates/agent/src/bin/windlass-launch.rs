//! A launcher, for programs whose own `main` is not theirs to change.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    windlass_agent::sandbox::launch_if_asked();
    eprintln!("windlass-launch is started by agents, not by people");
    std::process::ExitCode::from(2)
}
