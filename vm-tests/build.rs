//! Lists the scenarios, so that adding one is a matter of one file.

use std::{env, fmt::Write as _, fs, path::Path};

fn main() {
    let dir = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("scenarios");
    println!("cargo::rerun-if-changed={}", dir.display());
    let mut names: Vec<String> = fs::read_dir(&dir)
        .expect("the scenarios' directory is part of the package")
        .filter_map(|entry| {
            let name = entry.expect("a directory can be read").file_name();
            name.to_str()?.strip_suffix(".rs").map(str::to_owned)
        })
        .collect();
    names.sort();
    let mut code = String::new();
    for name in &names {
        let path = dir.join(name).display().to_string() + ".rs";
        writeln!(code, "#[path = {path:?}]\nmod {name};").expect("strings grow");
    }
    writeln!(code, "static ALL: &[(&str, &Scenario)] = &[").expect("strings grow");
    for name in &names {
        let shown = name.replace('_', "-");
        writeln!(code, "    ({shown:?}, &{name}::SCENARIO),").expect("strings grow");
    }
    code.push_str("];\n");
    let out = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("scenarios.rs");
    fs::write(out, code).expect("cargo's directory for output can be written");
}
