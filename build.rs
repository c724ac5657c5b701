//! Has the linker pack the addresses that a static program sets right when it starts: 0.9 MB less to read in, and to keep in memory.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // musl knows them since 1.2.4; glibc of older systems does not
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        // a compiler that links hands it on, and a linker takes it as it is
        println!("cargo::rustc-link-arg-bins=-zpack-relative-relocs");
    }
}
