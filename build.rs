//! Compiles `proto/` into what reflection shows. Needs no `protoc`, and never reaches outside this folder.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut check = protox::Compiler::new(["proto"])?;
    check.include_imports(true).open_file("envoy/service/auth/v3/external_auth.proto")?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("check.fds"), check.encode_file_descriptor_set())?;
    Ok(())
}
