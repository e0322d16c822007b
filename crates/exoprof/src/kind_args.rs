//! Builds command-line arguments from the options of all kinds, for the options of `record` that
//! only some kinds have.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use collect::kinds;
use collect::kinds::options::{KindOption, KindOptions, OptionValue};
use console::{bytes, duration};

/// The options of all kinds.
#[derive(Debug, Clone)]
pub struct KindArgs(pub KindOptions);

impl Args for KindArgs {
    fn augment_args(command: Command) -> Command {
        command.args(kinds::all_options().into_iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KindArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut parsed = Self(KindOptions::default());
        parsed.update_from_arg_matches(matches)?;
        Ok(parsed)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for option in kinds::all_options() {
            if let Some(value) = value_of(option, matches) {
                self.0.set(option, value);
            }
        }
        Ok(())
    }
}

fn arg(option: &'static KindOption) -> Arg {
    let arg = Arg::new(option.name).long(option.name).help(option.help);
    let valued = |name| arg.clone().value_name(name).default_value(shown(option.default));
    match option.default {
        OptionValue::Flag(_) => arg.clone().action(ArgAction::SetTrue),
        OptionValue::Bytes(_) => valued("BYTES").value_parser(bytes::parse),
        OptionValue::Duration(_) => valued("T").value_parser(duration::parse_nanoseconds),
        OptionValue::Number(_) => valued("N").value_parser(value_parser!(u32).range(1..)),
    }
}

/// A default, as a user would give it.
fn shown(value: OptionValue) -> String {
    match value {
        OptionValue::Flag(given) => given.to_string(),
        OptionValue::Bytes(n) if n > 0 && n.is_multiple_of(1 << 20) => format!("{}MiB", n >> 20),
        OptionValue::Bytes(n) if n > 0 && n.is_multiple_of(1 << 10) => format!("{}KiB", n >> 10),
        OptionValue::Bytes(n) => n.to_string(),
        OptionValue::Duration(d) => format!("{d:?}").replace('µ', "u"),
        OptionValue::Number(n) => n.to_string(),
    }
}

fn value_of(option: &KindOption, matches: &ArgMatches) -> Option<OptionValue> {
    let name = option.name;
    Some(match option.default {
        OptionValue::Flag(_) => OptionValue::Flag(matches.get_flag(name)),
        OptionValue::Bytes(_) => OptionValue::Bytes(*matches.get_one::<u64>(name)?),
        OptionValue::Duration(_) => OptionValue::Duration(*matches.get_one::<Duration>(name)?),
        OptionValue::Number(_) => OptionValue::Number(*matches.get_one::<u32>(name)?),
    })
}
