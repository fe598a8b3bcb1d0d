//! Evaluation: several models, several tasks, one table.
//!
//! | file | what it holds |
//! |---|---|
//! | `stage` | the settings, the plan, the run |
//! | `task` | what a task is |
//! | `tasks/` | the tasks, one file each |
//! | `items` | the records a task is made of |
//! | `subject` | a model under evaluation |
//! | `report` | results.json, samples.jsonl, report.md |

mod contamination;
mod items;
mod report;
mod settings;
mod stage;
mod subject;
mod task;
mod tasks;

pub use settings::{EvalConfig, TaskEntry};
pub use stage::EvalStage;
pub use subject::Subject;
pub use task::{Measure, Outcome, Task, TaskInput, TaskKind};

/// Every task. A new one is a file in `tasks/` and a line here.
pub const ALL: &[&dyn TaskKind] =
    &[&tasks::perplexity::Kind, &tasks::multiple_choice::Kind, &tasks::exact_match::Kind, &tasks::preference::Kind];
