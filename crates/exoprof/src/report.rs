//! Runs `exoprof report`: prints a report on one or more profiles.

use std::io::{self, BufWriter, ErrorKind, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use console::terminal::say;
use console::usage::{UsageError, Verbosity};
use report::{Filters, Form, Granularity, Options, Report, ReportError};
use view::source::SourceArgs;

use crate::export;
use crate::fetching::Fetching;

/// Options of `report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  exoprof report slow.pb.gz                          the heaviest functions
  exoprof report --top=10 --cum slow.pb.gz           the ten heaviest, callees included
  exoprof report --peek 'parse$' slow.pb.gz          who calls parse, and what parse calls
  exoprof report --list parse slow.pb.gz             its source, with the weight of each line
  exoprof report --tagfocus thread=worker slow.pb.gz only samples of threads whose name matches
  exoprof report --diff-base old.pb.gz new.pb.gz     what changed
  exoprof report --flamegraph slow.html slow.pb.gz   a self-contained flame graph
  exoprof report --speedscope slow.json slow.pb.gz   a file for speedscope; --firefox for Firefox")]
pub struct ReportArgs {
    #[command(flatten)]
    sources: SourceArgs,

    /// Print the heaviest entries, at most N (the default report)
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, group = "form")]
    top: Option<Option<usize>>,
    /// Print each entry with its callers and callees
    #[arg(long, group = "form")]
    tree: bool,
    /// Print the callers and callees of matching entries
    #[arg(long, value_name = "RE", group = "form")]
    peek: Option<String>,
    /// Print the annotated source of matching functions
    #[arg(long, value_name = "RE", group = "form")]
    list: Option<String>,
    /// Print every sample
    #[arg(long, group = "form")]
    traces: bool,
    /// Print labels such as thread and pid, with the weight of each value
    #[arg(long, group = "form")]
    tags: bool,
    /// Print the whole profile as text
    #[arg(long, group = "form")]
    raw: bool,
    /// Print one line per stack, for flame graph tools
    #[arg(long, group = "form")]
    collapsed: bool,
    /// Write a flame graph; the extension selects .html or .svg
    #[arg(long, value_name = "OUT", group = "form")]
    flamegraph: Option<PathBuf>,
    /// Write a file for speedscope (www.speedscope.app): all threads together, then each thread
    #[arg(long, value_name = "OUT", group = "form")]
    speedscope: Option<PathBuf>,
    /// Write a file for the Firefox Profiler (profiler.firefox.com), with one track per thread;
    /// memory use is about 30 times the profile's uncompressed size
    #[arg(long, value_name = "OUT", group = "form")]
    firefox: Option<PathBuf>,

    /// Report this sample type, by name or by position from 0
    #[arg(long, value_name = "NAME")]
    sample_index: Option<String>,
    /// Sort by cumulative values (with callees)
    #[arg(long)]
    cum: bool,
    /// Keep only samples with a matching frame
    #[arg(long, value_name = "RE")]
    focus: Option<String>,
    /// Drop samples with a matching frame
    #[arg(long, value_name = "RE")]
    ignore: Option<String>,
    /// Drop matching frames
    #[arg(long, value_name = "RE")]
    hide: Option<String>,
    /// Keep only matching frames
    #[arg(long, value_name = "RE")]
    show: Option<String>,
    /// Drop the callers of the outermost matching frame
    #[arg(long, value_name = "RE")]
    show_from: Option<String>,
    /// Keep only samples with a matching label: RE, thread=RE, 1kb:64kb
    #[arg(long, value_name = "RE")]
    tagfocus: Option<String>,
    /// Drop samples with a matching label
    #[arg(long, value_name = "RE")]
    tagignore: Option<String>,
    /// Attribute inlined calls to their caller
    #[arg(long)]
    noinlines: bool,
    /// Show at most this many entries; 0 shows all
    #[arg(long, value_name = "N")]
    nodecount: Option<usize>,
    /// Drop entries below this fraction of the total
    #[arg(long, value_name = "F", default_value_t = 0.005)]
    nodefraction: f64,
    /// Print values in this unit, such as ms or MB
    #[arg(long, value_name = "U")]
    unit: Option<String>,

    /// Group by function (the default)
    #[arg(long, group = "granularity")]
    functions: bool,
    /// Group by source file
    #[arg(long, group = "granularity")]
    files: bool,
    /// Group by source line
    #[arg(long, group = "granularity")]
    lines: bool,
    /// Group by code address
    #[arg(long, group = "granularity")]
    addresses: bool,
}

/// Runs the command.
pub fn run(args: &ReportArgs, verbosity: Verbosity) -> anyhow::Result<()> {
    if let Some(path) = &args.flamegraph {
        export::check(path)?;
    }
    let profile = args.sources.read(&mut Fetching::new(verbosity))?;
    let report = Report::new(&profile, options(args)?).map_err(wrong_usage)?;
    if verbosity > Verbosity::Quiet {
        report.warnings().iter().for_each(|w| say!("warning: {w}"));
    }
    if let Some(path) = &args.flamegraph {
        return export::flame_graph(&report, path, verbosity);
    }
    if let Some(path) = &args.speedscope {
        return export::write(path, verbosity, |out| report.write_speedscope(out));
    }
    if let Some(path) = &args.firefox {
        return export::write(path, verbosity, |out| report.write_firefox(out));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    match report.write(&mut out).and_then(|()| Ok(out.flush()?)) {
        // The reader has closed the pipe, which is not an error.
        Err(ReportError::Write(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn options(args: &ReportArgs) -> anyhow::Result<Options> {
    let form = match args {
        ReportArgs { tree: true, .. } => Form::Tree,
        ReportArgs { traces: true, .. } => Form::Traces,
        ReportArgs { tags: true, .. } => Form::Tags,
        ReportArgs { raw: true, .. } => Form::Raw,
        ReportArgs { collapsed: true, .. } => Form::Collapsed,
        ReportArgs { peek: Some(pattern), .. } => Form::Peek(pattern.clone()),
        ReportArgs { list: Some(pattern), .. } => Form::List(pattern.clone()),
        _ => Form::Top,
    };
    let granularity = match args {
        ReportArgs { files: true, .. } => Granularity::Files,
        ReportArgs { lines: true, .. } => Granularity::Lines,
        ReportArgs { addresses: true, .. } => Granularity::Addresses,
        _ => Granularity::Functions,
    };
    Ok(Options {
        form,
        granularity,
        sample_index: args.sample_index.clone(),
        cum: args.cum,
        filters: Filters {
            focus: args.focus.clone(),
            ignore: args.ignore.clone(),
            hide: args.hide.clone(),
            show: args.show.clone(),
            show_from: args.show_from.clone(),
            tag_focus: args.tagfocus.clone(),
            tag_ignore: args.tagignore.clone(),
            ..Filters::default()
        },
        no_inlines: args.noinlines,
        node_count: args.top.flatten().or(args.nodecount),
        node_fraction: args.nodefraction,
        unit: args.unit.clone(),
        source_path: std::env::current_dir().context("cannot find the current directory")?,
        ..Options::default()
    })
}

fn wrong_usage(error: ReportError) -> anyhow::Error {
    match error {
        ReportError::Pattern { .. }
        | ReportError::SampleType { .. }
        | ReportError::SampleTypeRange { .. } => UsageError(error.to_string()).into(),
        other => other.into(),
    }
}
