//! Compiles the XDP programs.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const PROGRAMS: [&str; 4] =
    ["src/traffic/source.bpf.c", "src/traffic/sink.bpf.c", "src/limit.bpf.c", "src/xdp_limit.bpf.c"];

fn main() {
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-changed=src/traffic/bpf.h");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for source in PROGRAMS {
        println!("cargo:rerun-if-changed={source}");
        let name = Path::new(source).with_extension("o");
        compile(&clang, source, &out.join(name.file_name().expect("each is a file")));
    }
}

fn compile(clang: &str, source: &str, object: &Path) {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let mut command = Command::new(clang);
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-Isrc/traffic"]);
    // Debian keeps asm/types.h, which linux/bpf.h needs, where only the host's compiler looks.
    command.arg(format!("-I/usr/include/{arch}-linux-gnu"));
    match command.arg("-c").arg(source).arg("-o").arg(object).status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{clang} cannot compile {source} ({status}); it said why above")),
        Err(error) => fail(&format!(
            "cannot run {clang} to compile {source}: {error}. Install it with `apt-get install clang`, or name another in CLANG"
        )),
    }
}

fn fail(what: &str) -> ! {
    println!("cargo::error={what}");
    exit(1)
}
