//! `thimble compress`: a recipe, a model, a folder.

use super::CommandResult;
use super::output::Output;
use std::path::PathBuf;

/// Prune, distil and quantise a model by a recipe, prove what it cost, and pack it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  thimble compress recipes/gptq-4bit.toml --model ./my-model --out ./small
  thimble compress recipes/gptq-4bit.toml --model ./my-model --out ./small \\
      --calibration train.txt --eval-text held-out.txt --set gptq.bits=3
  thimble compress recipes/distil-half.toml --model ./teacher --out ./student \\
      --set \"distil.training.text=['/data/stories']\" --set distil.training.tokens=20000000
  thimble compress recipes/distil-half.toml --model ./teacher --out ./student-for-transformers \\
      --set output.format=hf
A run that was interrupted goes on where it stopped when the same command is given again.")]
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub struct Args {
    /// What to do (TOML)
    recipe: PathBuf,
    /// A Hugging Face directory or a llama2.c .bin, in full precision
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// The folder to write model.thimble (or a Hugging Face directory: [output] format = "hf"), report.html, report.json, README.md and training-1.csv to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A tokenizer.json, sentencepiece model, vocab.json (with merges.txt), RWKV vocabulary or llama2.c tokenizer.bin, instead of the model's own
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Change a value of the recipe: gptq.bits=3, 2.gptq.bits=3, calibration.sequences=64
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Calibrate on this text instead of the recipe's; - reads standard input
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Measure on this text instead of the recipe's; - reads standard input
    #[arg(long, value_name = "FILE")]
    eval_text: Option<PathBuf>,
    /// Fail where there is no unfinished run to resume
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,
    /// Never resume: start again
    #[arg(long)]
    fresh: bool,
    /// Where libtorch computes
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceArg,
    /// Number format of forwards in calibration and training; bf16 is faster where the processor has it
    #[arg(long, value_enum, default_value = "f32")]
    dtype: super::source::DtypeArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DeviceArg {
    Cpu,
    Cuda,
}

#[cfg(not(feature = "torch"))]
pub fn main(_args: Args, _threads: usize, _output: Output) -> CommandResult {
    let reason = "this build cannot compress: it has no libtorch. Run `make setup` in the source tree, then `cargo build --release --features torch`";
    Err(crate::Error::Environment(reason.into()).into())
}

#[cfg(feature = "torch")]
pub fn main(args: Args, threads: usize, output: Output) -> CommandResult {
    use super::output::table;
    use super::progress::Bars;
    use crate::pipeline::{self, Options, Unfinished};
    use crate::recipe::RawRecipe;
    use crate::report::GateResult;
    use std::process::ExitCode;

    let input = std::path::Path::new(crate::text::read::STANDARD_INPUT);
    if args.recipe == input && [&args.calibration, &args.eval_text].into_iter().flatten().any(|text| text == input) {
        return Err(
            crate::Error::Usage("standard input (-) cannot be both the recipe and a text; name a file for one of them".into()).into()
        );
    }
    let mut recipe = RawRecipe::read(&args.recipe, &args.sets)?;
    if let Some(file) = &args.calibration {
        recipe.set_calibration_text(file);
    }
    if let Some(file) = &args.eval_text {
        recipe.set_evaluation_text(file);
    }
    let unfinished = match () {
        () if args.resume => Unfinished::MustResume,
        () if args.fresh => Unfinished::StartAgain,
        () => Unfinished::Resume,
    };
    let device = device(args.device)?;
    crate::threads::expect(crate::threads::count(threads))?;
    if threads > 0 {
        tch::set_num_threads(threads as i32);
    }
    let compute = crate::compress::Compute { device, kind: args.dtype.into() };
    let model = crate::runtime::open(&args.model, args.tokenizer.as_deref())?;
    let options = Options { out: &args.out, compute, threads, unfinished };
    let report = pipeline::compress(&recipe, model, &options, &Bars::heeding_interrupts())?;
    output.print(&report, |r| {
        let head = [String::new(), "before".into(), "after".into()];
        let rows: Vec<_> = std::iter::once(head).chain(r.comparison()).map(|row| row.to_vec()).collect();
        let worst = r.stages.iter().flat_map(|s| &s.layers).max_by(|a, b| a.relative_error.total_cmp(&b.relative_error));
        let worst = worst.map_or(String::new(), |l| format!("largest relative error: {:.4} in {}\n", l.relative_error, l.name));
        let remarks: String = r.remarks().map(|remark| remark + "\n").collect();
        let files: Vec<_> = r.files.iter().map(|f| f.display().to_string()).collect();
        format!(
            "{}\n\n{worst}{remarks}read back: logits agree to {:.1e}\n{:.1} s, peak memory {}{}\nwritten: {}",
            table(&rows),
            r.max_read_back_difference,
            r.seconds,
            super::output::bytes(r.peak_memory_bytes),
            if r.resumed_blocks > 0 { format!(", {} blocks resumed", r.resumed_blocks) } else { String::new() },
            files.join(" ")
        )
    })?;
    if report.gate == Some(GateResult::Missed) {
        super::progress::say("the quality gate was missed: the model is written and marked so");
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "torch")]
fn device(arg: DeviceArg) -> crate::Result<tch::Device> {
    match arg {
        DeviceArg::Cpu => Ok(tch::Device::Cpu),
        DeviceArg::Cuda if tch::Cuda::is_available() => Ok(tch::Device::Cuda(0)),
        DeviceArg::Cuda => {
            let reason =
                "--device cuda: this build or machine has no CUDA; build with --features cuda and a libtorch that has it (make setup-cuda)";
            Err(crate::Error::Environment(reason.into()))
        }
    }
}
