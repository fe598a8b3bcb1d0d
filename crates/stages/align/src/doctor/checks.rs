//! The known failures.

use super::{Check, History};

/// Log-probability of the better answers that may be lost, as a share of what it was.
const FALL: f64 = 0.1;

/// Preference losses raise a margin; both answers may become unlikely (Pal et al. 2024, "Smaug"; Razin et al. 2024).
pub const CHOSEN_FALLS: Check = Check {
    name: "chosen_falls",
    about: "the better answers become unlikely too",
    advice: "give the loss an `nll_weight` (orpo, simpo, cpo), a higher `beta`, a lower `lr`, or use `apo_zero`",
    look: |history| {
        let [before, after] = history.held_out("logps_chosen")?;
        let says = format!("the held-out chosen answers' log-probability went from {before:.1} to {after:.1}");
        Some((after < before - FALL * before.abs(), says))
    },
};

/// What training sees rises while what is held out falls (Gao et al. 2023, "Scaling Laws for Reward Model
/// Overoptimization", on the rewards).
pub const OVERFITTING: Check = Check {
    name: "overfitting",
    about: "training rises while what is held out falls",
    advice: "train for fewer epochs, with a lower `lr` or adapters, or on more data",
    look: |history| {
        let pairs = [("reward_accuracy", "reward_margin"), ("reward", "reward")];
        let measured = pairs.iter().filter_map(|(seen, held_out)| {
            let [first, last] = history.ends(seen)?;
            let [before, after] = history.held_out(held_out)?;
            let says = format!(
                "in training {seen} went from {first:.3} to {last:.3}, held-out {held_out} from {before:.3} to {after:.3}"
            );
            Some((last > first && after < before, says))
        });
        let all: Vec<(bool, String)> = measured.collect();
        all.iter().find(|(found, _)| *found).or(all.first()).cloned()
    },
};

/// Answers may grow for the reward's sake (Singhal et al. 2023, "A Long Way to Go").
pub const LENGTH: Check = Check {
    name: "length",
    about: "answers grow faster than their reward",
    advice: "add a reward of kind `length`, or use the loss `dr_grpo`",
    look: |history| {
        let [short, long] = history.held_out("length")?;
        let ([before, after], [deviation, _]) = (history.held_out("reward")?, history.held_out("reward_deviation")?);
        let (growth, gain) = (long / short.max(1.0) - 1.0, (after - before) / deviation.max(1e-6));
        let says = format!(
            "held-out answers went from {short:.1} to {long:.1} tokens, their reward from {before:.3} to {after:.3}, {gain:.1} standard deviations"
        );
        Some((growth > 0.2 && growth > gain, says))
    },
};

/// Divergence of an answer from the reference beyond which it has little to do with it any more, nats.
const FAR: f64 = 20.0;

/// The policy leaves the reference behind.
pub const DIVERGENCE: Check = Check {
    name: "divergence",
    about: "the policy leaves the reference",
    advice: "raise `beta` or `kl_coefficient`, set a `kl_target`, or lower `lr`",
    look: |history| {
        let [first, last] = history.ends("kl")?;
        Some((last > FAR, format!("the divergence of an answer went from {first:.2} to {last:.2} nats")))
    },
};

/// The policy stops trying (Cui et al. 2025, "The Entropy Mechanism").
pub const ENTROPY: Check = Check {
    name: "entropy",
    about: "the policy says the same again and again",
    advice: "raise `epsilon_high` or `temperature`, lower `lr`, or stop earlier",
    look: |history| {
        let [first, last] = history.ends("entropy")?;
        Some((
            first > 0.1 && last < 0.2 * first,
            format!("the entropy of a token went from {first:.3} to {last:.3} nats"),
        ))
    },
};

/// Groups of equal rewards teach nothing (Yu et al. 2025, "DAPO", section 3.2).
pub const DEAD_GROUPS: Check = Check {
    name: "dead_groups",
    about: "most groups of answers are worth the same",
    advice: "take prompts that the model sometimes answers rightly, raise `group_size`, or set `replace_dead_groups`",
    look: |history: &History| {
        let [first, last] = history.ends("dead_groups")?;
        let says =
            format!("the share of groups with equal rewards went from {:.0}% to {:.0}%", 100.0 * first, 100.0 * last);
        Some((last > 0.5, says))
    },
};
