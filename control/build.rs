//! Compiles the BPF programs of `sluice realserver` and of checks that ask for a VIP.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    compile("src/realserver/decap.bpf.c", "decap.bpf.o");
    compile("src/health/vip.bpf.c", "vip.bpf.o");
}

fn compile(source: &str, object: &str) {
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(object);
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    };
    // Debian keeps <asm/types.h> in a directory named after the host, which clang does not search
    // for the BPF target.
    let host = format!("/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default());
    // -g, as maps are described by BTF.
    let status = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", target, "-idirafter", &host])
        .args(["-c", source, "-o"])
        .arg(&out)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "{clang} could not compile {source} ({status}). It needs the kernel's and libbpf's headers: on \
             Debian, apt-get install linux-libc-dev libbpf-dev"
        )),
        Err(error) => fail(&format!(
            "cannot run {clang}, which compiles {source}: {error}. On Debian: apt-get install clang; \
             elsewhere, set CLANG to its path"
        )),
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1);
}
