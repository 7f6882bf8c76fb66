//! Builds the supervisor as a static program with a cargo of its own, because the flags of a static program cannot be
//! given to one crate of a build. It uses the same lock file, toolchain and cache of crates, and a target folder below
//! `OUT_DIR`, so it waits for no lock of the build that started it.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// Everything that the program is made of.
const SOURCES: [&str; 4] =
    ["common/supervisor/src", "common/supervisor/Cargo.toml", "Cargo.lock", "Cargo.toml"];
/// What the outer build sets for its own compiler.
const NOT_INHERITED: [&str; 3] = ["RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "CARGO_BUILD_TARGET"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../..");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = variable("TARGET")?;
    if !target.contains("linux") {
        let empty = out.join("supervisor");
        std::fs::write(&empty, [])?;
        println!("cargo:rustc-env=SUPERVISOR={}", empty.display());
        return Ok(());
    }
    let folder = out.join("target");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args([
            "build",
            "--locked",
            "--profile",
            "supervisor",
            "--package",
            "supervisor",
            "--bin",
            "supervisor",
        ])
        .args(["--no-default-features", "--features", "binary", "--target", &target, "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
    if !cargo.status()?.success() {
        return Err("the supervisor was not built; a static program needs libc.a (Debian: libc6-dev)".into());
    }
    println!("cargo:rustc-env=SUPERVISOR={}", folder.join(target).join("supervisor/supervisor").display());
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    let value = std::env::var_os(name).and_then(|value| value.into_string().ok());
    value.ok_or_else(|| format!("cargo sets {name}"))
}
