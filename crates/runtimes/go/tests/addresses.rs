//! Compares addresses of runtime variables found in machine code with the symbol table, and checks
//! which variables may be written.

mod common;

use std::process::Command;

use common::{BUILDS, Build, Target, VERSIONS, build, for_each_version, installed};
use goruntime::{Evidence, Refusal, Source, Variable};

/// Variables that cannot be found in stripped programs and that readers do not require.
const ONLY_IN_SYMBOLS: [Variable; 2] = [Variable::Allglen, Variable::ProfMemActiveLock];

#[test]
fn code_and_symbol_table_agree_on_addresses() {
    for_each_version(|version| {
        for how in [Build::Plain, Build::Pie, Build::Cgo] {
            let target = Target::start(version, "plain", how);
            for variable in Variable::ALL.iter().filter(|v| !ONLY_IN_SYMBOLS.contains(v)) {
                let evidence = target.runtime.evidence(*variable).expect("evidence");
                assert!(
                    evidence.claims[0].0 == Source::SymbolTable && evidence.claims.len() > 1,
                    "{version} {how:?}: {evidence:?}"
                );
                if let Err(e) = evidence.agreed() {
                    panic!("{version} {how:?}: {e}");
                }
            }
        }
    });
}

#[test]
fn stripped_and_unstripped_programs_have_equal_addresses() {
    for_each_version(|version| {
        for how in [Build::Plain, Build::Cgo] {
            // Use strip rather than -ldflags=-s: the program records its flags, so these shift
            // data.
            let path = build(version, "plain", how);
            let stripped = path.with_extension("strip");
            let status = Command::new("strip").arg("-o").arg(&stripped).arg(&path).status();
            assert!(status.expect("strip").success());
            let (whole, stripped) = (Target::run(&path, &[]), Target::run(&stripped, &[]));
            for variable in Variable::ALL.iter().filter(|v| !ONLY_IN_SYMBOLS.contains(v)) {
                let of = |t: &Target| t.runtime.evidence(*variable).and_then(Evidence::address);
                assert!(of(&whole).is_some(), "{version}: {variable}");
                assert_eq!(of(&whole), of(&stripped), "{version} {how:?}: {variable}");
                let claims = &stripped.runtime.evidence(*variable).expect("evidence").claims;
                assert!(claims.iter().all(|(s, _)| *s != Source::SymbolTable));
            }
        }
    });
}

#[test]
fn every_build_permits_writes() {
    for_each_version(|version| {
        for how in BUILDS {
            let target = Target::start(version, "plain", how);
            let (runtime, memory) = (&target.runtime, &target.memory);
            for permit in [
                runtime.heap_rate_permit(memory),
                runtime.block_rate_permit(memory),
                runtime.mutex_rate_permit(memory),
            ] {
                let permit = permit.unwrap_or_else(|e| panic!("{version} {how:?}: {e}"));
                assert_eq!(
                    permit.current(),
                    0,
                    "sampling is off without a profiling package: {permit:?}"
                );
            }
            let reset = runtime.reset_caches(memory, 4096, &mut || 0.5);
            let reset = reset.unwrap_or_else(|e| panic!("{version} {how:?}: {e}"));
            assert!(reset.caches >= 1, "{version} {how:?}");
        }
    });
}

#[test]
fn unoptimised_stripped_code_permits_no_writes() {
    for version in installed(&VERSIONS) {
        let target = Target::start(version, "plain", Build::UnoptimisedStripped);
        let (runtime, memory) = (&target.runtime, &target.memory);
        for permit in [
            runtime.heap_rate_permit(memory),
            runtime.block_rate_permit(memory),
            runtime.mutex_rate_permit(memory),
        ] {
            let refusal = permit.expect_err("unoptimised code does not match the patterns");
            eprintln!("{version}: {refusal}");
        }
        assert!(matches!(
            runtime.reset_caches(memory, 4096, &mut || 0.5),
            Err(Refusal::Unknown(_)
                | Refusal::OneSource { .. }
                | Refusal::Disputed { .. }
                | Refusal::Implausible { .. })
        ));
    }
}
