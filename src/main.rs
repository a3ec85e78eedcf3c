//! The command `keyward`.

fn main() -> std::process::ExitCode {
    keyward::cli::main()
}
