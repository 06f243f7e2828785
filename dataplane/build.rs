//! Compiles the BPF programs with clang.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    compile("src/steer/steer.bpf.c", "steer.bpf.o", &[]);
    // Atomic instructions that give a value back (Linux 5.12).
    let mut arguments = vec!["-mcpu=v3"];
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        arguments.push("-DLOADS_IN_ORDER");
    }
    compile("src/offload/offload.bpf.c", "offload.bpf.o", &arguments);
    compile("src/port/punt.bpf.c", "punt.bpf.o", &[]);
}

fn compile(source: &str, object: &str, arguments: &[&str]) {
    println!("cargo:rerun-if-changed={source}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(object);
    // Debian keeps <asm/types.h> in a directory named after the host, which
    // clang does not search for the bpf target.
    let multiarch =
        format!("/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default());
    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror"]).args(arguments);
    if fs::metadata(&multiarch).is_ok() {
        command.args(["-idirafter", &multiarch]);
    }
    command.args(["-c", source, "-o"]).arg(&object);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "{clang} could not compile {source} ({status}). It needs the kernel's and libbpf's headers: \
             on Debian, apt-get install linux-libc-dev libbpf-dev"
        ),
        Err(error) => panic!(
            "cannot run {clang}: {error}. The BPF programs are compiled by clang: on Debian, \
             apt-get install clang (or set CLANG to its path)"
        ),
    }
}
