//! Records the `threadcreate` profile of Go programs: where their threads were created.

use assemble::Stats;
use goruntime::ThreadCreation;
use pprof::KindFacts;

use super::collector::GoKind;
use super::profile::GoProfile;
use super::program::Program;
use crate::options::RecordOptions;
use crate::outcome::RecordError;

/// The threads of a program.
#[derive(Default)]
pub(crate) struct Threads(Vec<ThreadCreation>);

impl GoKind for Threads {
    const FACTS: KindFacts = pprof::kinds::THREADCREATE;

    fn attach(_: &Program, _: &RecordOptions) -> Result<Self, RecordError> {
        Ok(Self::default())
    }

    fn is_snapshot(&self) -> bool {
        true
    }

    fn read(&mut self, program: &Program) -> Result<(), RecordError> {
        self.0 = program.runtime.threads(&program.memory).map_err(|e| program.error(e))?;
        Ok(())
    }

    fn has_read(&self) -> bool {
        !self.0.is_empty()
    }

    fn add_to(&self, program: &Program, profile: &mut GoProfile) -> Result<(), RecordError> {
        for thread in &self.0 {
            let frames = program.runtime.recorded_frames(&thread.stack);
            profile.add_or(program, &frames, &[1], Vec::new(), "[no stack recorded]")?;
        }
        Ok(())
    }

    fn account(&self, _: &Program, stats: &mut Stats) {
        stats.samples.kept += self.0.len() as u64;
        let without = self.0.iter().filter(|t| t.stack.is_empty()).count();
        if without > 0 {
            stats.notes.push(format!(
                "Go records no stack for {without} of {} threads: those started by its scheduler",
                self.0.len()
            ));
        }
    }
}
