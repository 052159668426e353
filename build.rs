//! Compiles `proto/` into Rust. Needs no `protoc`, and never reaches outside this folder.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["tollgate/v1/records.proto"], ["proto"])?;
    // A record's digest has no place in a log.
    prost_build::Config::new().skip_debug(["."]).compile_fds(files)?;
    Ok(())
}
