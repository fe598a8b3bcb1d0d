//! The command line: a small closed surface. Everything else is the recipe and `--set`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// cupola: one program for the whole life of a language model.
#[derive(Debug, Parser)]
#[command(name = "cupola", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a recipe: every stage that is new or whose settings or inputs have changed
    Run(RunArgs),
    /// Show what a recipe will cost before it runs
    Plan(PlanArgs),
    /// Talk to a model in the terminal
    Chat(ChatArgs),
    /// Serve a model: OpenAI-style API and web page
    Serve(ServeArgs),
    /// Measure models: perplexity, multiple choice, generation
    Eval(EvalArgs),
    /// Read, clean and split texts
    Data(DataArgs),
    /// Train a tokenizer
    Tokenizer(TokenizerArgs),
    /// Make a model smaller
    Compress(CompressArgs),
    /// Write a model for other programs
    Export(ExportArgs),
    /// Show what an artifact, a model folder or a weights file holds
    Inspect(PathArgs),
    /// Check that an artifact and all it was made from are unchanged
    Verify(PathArgs),
    /// Show what this machine can do
    Doctor(DoctorArgs),
}

/// Where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    Cpu,
    Vulkan,
    Cuda,
    Rocm,
    Metal,
}

impl Device {
    /// Its name, as recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Vulkan => "vulkan",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
        }
    }

    /// Whether this build has it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Rocm => cfg!(feature = "rocm"),
            Self::Metal => cfg!(feature = "metal"),
        }
    }
}

/// What all commands that run stages have in common.
#[derive(Args, Clone, Debug, Default)]
pub struct StageArgs {
    /// Change a setting: `KIND.NAME.KEY=VALUE` (a stage alone: `KEY=VALUE`), with the value as TOML or plain text
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The folder for the artifacts [default: below `runs`]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The device to compute on [default: cpu]
    #[arg(long, value_enum)]
    pub device: Option<Device>,
    /// Print the record of the run as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `cupola run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The recipe, or a folder that holds recipe.toml
    pub recipe: PathBuf,
    /// Run this stage alone
    #[arg(long, value_name = "STAGE", conflicts_with = "from")]
    pub only: Option<String>,
    /// Run this stage again, and all that depend on it
    #[arg(long, value_name = "STAGE")]
    pub from: Option<String>,
    #[command(flatten)]
    pub stage: StageArgs,
}

/// `cupola plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The recipe, or a folder that holds recipe.toml
    pub recipe: PathBuf,
    #[command(flatten)]
    pub stage: StageArgs,
}

/// `cupola chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// The model: an artifact or a model folder
    pub model: PathBuf,
    /// What the model is told before the conversation
    #[arg(long)]
    pub system: Option<String>,
    /// Divides the logits; 0 always takes the most likely token
    #[arg(long, default_value_t = 0.7)]
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probabilities add up to this
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f32,
    /// The most tokens of an answer
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// Make the answers repeatable
    #[arg(long)]
    pub seed: Option<u64>,
    /// The device to compute on
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: Device,
}

/// `cupola serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The model: a `serve` artifact, another artifact with a model, or a model folder
    pub model: PathBuf,
    /// An adapter of the model and the name under which requests ask for it; may be given several times
    #[arg(long = "adapter", value_name = "NAME=DIR", value_parser = named_folder)]
    pub adapters: Vec<(String, PathBuf)>,
    /// The address to listen on
    #[arg(long)]
    pub host: Option<String>,
    /// The port to listen on; 0 takes a free one
    #[arg(long)]
    pub port: Option<u16>,
    /// The device to compute on
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: Device,
}

/// `cupola eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// The models: artifacts or model folders
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// The tasks, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub tasks: Vec<String>,
    #[command(flatten)]
    pub stage: StageArgs,
}

/// `cupola data`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DataArgs {
    /// Files, folders and patterns; or a recipe, whose data stages are run
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub stage: StageArgs,
    /// What to do in place of running the stage
    #[command(subcommand)]
    pub command: Option<DataCommand>,
}

/// What else `cupola data` does.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Page through kept and dropped documents, with the reasons
    Browse(BrowseArgs),
}

/// `cupola data browse`.
#[derive(Args, Debug)]
pub struct BrowseArgs {
    /// The data artifact
    pub artifact: PathBuf,
    /// Only what was kept
    #[arg(long, conflicts_with = "dropped")]
    pub kept: bool,
    /// Only what was dropped
    #[arg(long)]
    pub dropped: bool,
    /// Only what this step dropped
    #[arg(long)]
    pub step: Option<String>,
    /// Only what was dropped for this reason
    #[arg(long)]
    pub reason: Option<String>,
    /// Only what comes from files with this in their names
    #[arg(long)]
    pub source: Option<String>,
    /// Only documents with this in their text or id, whatever the case
    #[arg(long)]
    pub find: Option<String>,
    /// The most documents to show
    #[arg(long)]
    pub limit: Option<usize>,
    /// Characters to show of each text
    #[arg(long, default_value_t = 600)]
    pub characters: usize,
}

/// `cupola tokenizer`.
#[derive(Args, Debug)]
pub struct TokenizerArgs {
    /// A data artifact or a text file
    pub data: PathBuf,
    #[command(flatten)]
    pub stage: StageArgs,
}

/// `cupola compress`.
#[derive(Args, Debug)]
pub struct CompressArgs {
    /// An artifact with a model, or a model folder
    pub model: PathBuf,
    #[command(flatten)]
    pub stage: StageArgs,
}

/// `cupola export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The model: an artifact, a model folder or a .gguf file
    pub model: PathBuf,
    /// The layout to write
    #[arg(long, value_enum)]
    pub to: Layout,
    /// How a GGUF file stores matrices: f32, f16, bf16, q8_0, q6_k, q5_k, q4_k, … [default: f16]
    #[arg(long = "type", value_name = "TYPE")]
    pub element: Option<String>,
    /// The file or folder to write [default: named after the model, here]
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
}

/// What other programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// One file with model and tokenizer, for llama.cpp and what builds on it
    Gguf,
    /// A folder in Hugging Face's layout
    Hf,
}

/// `cupola inspect` and `cupola verify`.
#[derive(Args, Debug)]
pub struct PathArgs {
    /// An artifact, the folder of a run, a model folder or a weights file
    pub path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cupola doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `NAME=DIR`.
fn named_folder(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.to_string(), dir.into())),
        _ => Err("an adapter is NAME=DIR".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn surface_is_closed() {
        let names: Vec<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_string()).collect();
        let expected = [
            "run",
            "plan",
            "chat",
            "serve",
            "eval",
            "data",
            "tokenizer",
            "compress",
            "export",
            "inspect",
            "verify",
            "doctor",
        ];
        assert_eq!(names, expected);
    }
}
