//! The gradients of a step, and their norm.

use cupola_kernels::{add_with_squares, sum_of_squares};

/// Gradients by parameter, in the order of the parameters; `None` for those that are not trained.
pub type Gradients = Vec<Option<Vec<f32>>>;

/// The Euclidean norm of all gradients together.
pub fn gradient_norm(gradients: &Gradients) -> f64 {
    squares(gradients).sqrt()
}

fn squares(gradients: &Gradients) -> f64 {
    gradients.iter().flatten().map(|g| sum_of_squares(g)).sum()
}

/// Adds a micro-batch's gradients to those of the step. With the step's `last` one gives the sum of the squares of all,
/// taken while they are added; before it 0.
pub fn accumulate(sums: &mut Gradients, fresh: Gradients, last: bool) -> f64 {
    if sums.is_empty() {
        *sums = fresh;
        return if last { squares(sums) } else { 0.0 };
    }
    let mut total = 0.0;
    for (sum, new) in sums.iter_mut().zip(fresh) {
        match (sum.as_mut(), new) {
            (Some(sum), Some(new)) => {
                total += add_with_squares(sum, &new);
                continue;
            }
            (None, new) => *sum = new,
            (Some(_), None) => {}
        }
        total += if last { sum.as_deref().map_or(0.0, sum_of_squares) } else { 0.0 };
    }
    if last { total } else { 0.0 }
}
