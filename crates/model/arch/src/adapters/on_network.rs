//! Which modules of a network an adapter stands at, and how it gets there.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use cupola_artifact::{Error, Result};
use cupola_nn::adapters::{
    AdapterConfig, Base, BottleneckSettings, GatedPrompt, GatedPromptSettings, Make, OnLinears, Roles, Selection,
    Spanning, Stands, Targets, Virtual,
};
use cupola_nn::{Init, LayerSpec, Linear, Module, Norm, Param, ParamMut, Piece, Place, Use, Want, WeightSource};
use serde_json::json;

use crate::family::Family;
use crate::fused::Fused;
use crate::network::{Network, Spec};
use crate::rearrange::Rearrangement;

/// The names that PEFT saves the weights of beside a low-rank adapter on them.
const SAVED_WHOLE: &[&str] = &["embed_tokens", "lm_head"];

/// What is known of a model besides its network.
pub(crate) struct Site<'a> {
    family: &'static dyn Family,
    spec: &'a Spec,
    fused: Vec<Fused>,
    /// Shapes by name, where the network has none.
    shapes: Option<BTreeMap<String, Vec<usize>>>,
}

/// What a network's modules are called in files, and which parts they have.
#[derive(Default)]
struct Inventory {
    /// Linear layers inside blocks.
    linears: Vec<String>,
    /// Norms.
    norms: Vec<String>,
    /// Attention layers that can have vectors of their own.
    attention: Vec<String>,
}

/// A weight's module.
fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// What a module stands in.
fn parent(module: &str) -> &str {
    module.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// Whether a module is inside a numbered block.
fn in_block(module: &str) -> bool {
    module.split('.').any(|part| part.parse::<usize>().is_ok())
}

impl<'a> Site<'a> {
    /// The site of a family's model; `shapes` where its network has no numbers.
    pub fn new(family: &'static dyn Family, spec: &'a Spec, shapes: Option<BTreeMap<String, Vec<usize>>>) -> Self {
        let fused = family.rearrangements(spec).into_iter().filter_map(|r| match r {
            Rearrangement::Fused(fused) => Some(fused),
            _ => None,
        });
        Self { family, spec, fused: fused.collect(), shapes }
    }

    fn shape(&self, name: &str, own: &[usize]) -> Vec<usize> {
        self.shapes.as_ref().and_then(|shapes| shapes.get(name).cloned()).unwrap_or_else(|| own.to_vec())
    }

    fn dims(&self, linear: &Linear) -> [usize; 2] {
        match self.shape(linear.weight.name(), &linear.weight.dims())[..] {
            [d_out, d_in] => [d_out, d_in],
            _ => linear.weight.dims(),
        }
    }

    /// The module of files that is this layer alone, or else its own name.
    fn alone(&self, linear: &Linear) -> String {
        let own = module_of(linear.weight.name());
        let fused = self.fused.iter().find(|f| f.parts.len() == 1 && f.parts[0].0 == own);
        fused.map_or_else(|| own.to_string(), |fused| fused.module.clone())
    }

    /// The module of files that is these layers together.
    fn together(&self, linears: &[&mut Linear]) -> Option<&Fused> {
        let is = |f: &&Fused| {
            f.parts.len() == linears.len()
                && f.parts.iter().zip(linears).all(|(part, linear)| part.0 == module_of(linear.weight.name()))
        };
        self.fused.iter().find(is)
    }

    /// A name of files as the family's table has it: a pattern of the model's own names.
    fn role(&self, module: &str) -> Option<&'static str> {
        let pattern: Vec<&str> =
            module.split('.').map(|part| if part.parse::<usize>().is_ok() { "{}" } else { part }).collect();
        let pattern = pattern.join(".");
        self.family.names().iter().find(|(_, file)| *file == pattern).map(|(own, _)| *own)
    }

    /// Whether a module, or a part of it, makes keys or values or narrows a feed-forward layer; and which of both.
    fn keys_values_down(&self, module: &str) -> (bool, bool) {
        let parts = self.fused.iter().find(|f| f.module == module).map(|f| f.parts.iter().map(|p| p.0.as_str()));
        let parts: Vec<&str> = parts.map_or_else(|| vec![module], Iterator::collect);
        let roles = || parts.iter().filter_map(|part| self.role(part));
        let down = roles().any(|role| role.ends_with("ffn.down"));
        (down || roles().any(|role| role.ends_with(".k") || role.ends_with(".v")), down)
    }

    fn inventory(&self, network: &mut Network) -> Inventory {
        let mut pieces = vec![];
        network.pieces(&mut pieces);
        let (mut found, mut last) = (Inventory::default(), String::new());
        for piece in pieces {
            match piece {
                Piece::Linear(linear) => {
                    last = self.alone(linear);
                    found.linears.extend(Some(last.clone()).filter(|module| in_block(module)));
                }
                Piece::Linears(linears, _) => match self.together(&linears) {
                    Some(fused) => found.linears.push(fused.module.clone()),
                    None => found.linears.extend(linears.iter().map(|linear| self.alone(linear))),
                },
                Piece::Norm(norm) => found.norms.push(module_of(norm.weight.name()).to_string()),
                Piece::Place(Place::Attention(_)) => found.attention.push(parent(&last).to_string()),
                _ => {}
            }
        }
        found
    }

    /// The settings with what follows from the model: which modules, where none are named.
    ///
    /// # Errors
    /// Names of modules that the model does not have; a kind that its network has no place for.
    pub fn resolved(&self, network: &mut Network, config: &AdapterConfig) -> Result<AdapterConfig> {
        let found = self.inventory(network);
        let text = |names: Vec<String>| json!(names);
        match config.adapter.stands() {
            Stands::Linears(on) => {
                let (selection, mut settings) = (on.selection(), serde_json::Map::new());
                if selection.target_modules.is_none() {
                    let wanted = |module: &&String| match on.roles() {
                        Roles::All => true,
                        Roles::KeysValuesDown => self.keys_values_down(module).0,
                    };
                    let chosen: Vec<String> = found.linears.iter().filter(wanted).cloned().collect();
                    settings.insert("target_modules".into(), text(shortened(&chosen, &found.linears)));
                    if on.roles() == Roles::KeysValuesDown {
                        let down = |module: &&String| self.keys_values_down(module).1;
                        let down: Vec<String> = chosen.iter().filter(down).cloned().collect();
                        settings.insert("feedforward_modules".into(), text(shortened(&down, &found.linears)));
                    }
                } else if selection.target_modules.as_ref().is_some_and(Targets::is_all_linear) {
                    settings.insert("target_modules".into(), text(shortened(&found.linears, &found.linears)));
                }
                config.with(settings)
            }
            Stands::Norms(norms) if norms.selection().target_modules.is_none() => {
                let names = shortened(&found.norms, &found.norms);
                config.with([("target_modules".to_string(), text(names))].into_iter().collect())
            }
            Stands::Attention(settings) => {
                let Some(first) = found.attention.first() else { return Err(self.no_place(config)) };
                let layers = settings.last_layers.unwrap_or(found.attention.len());
                if layers > found.attention.len() {
                    let message = format!("`last_layers` = {layers}, but the model has {}", found.attention.len());
                    return Err(Error::usage(format!("{message} attention layers that can have an adapter")));
                }
                let module = first.rsplit('.').next().unwrap_or_default();
                config.with(
                    [("target_modules".to_string(), json!(module)), ("last_layers".to_string(), json!(layers))]
                        .into_iter()
                        .collect(),
                )
            }
            _ => Ok(config.clone()),
        }
    }

    fn no_place(&self, config: &AdapterConfig) -> Error {
        let (kind, family) = (config.kind.name(), self.family.model_type());
        Error::usage(format!("a model of the family `{family}` has no place for an adapter of the kind `{kind}`"))
            .with_hint("`lora` stands beside any linear layer")
    }

    /// Vectors that queries attend besides do not go through the output layer where PEFT's do not.
    fn projects(&self) -> bool {
        self.family.model_type() != "gpt2"
    }
}

/// The shortest ends of names that name some modules and no others.
fn shortened(chosen: &[String], all: &[String]) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for module in chosen {
        let parts: Vec<&str> = module.split('.').collect();
        let end = (1..=parts.len()).map(|n| parts[parts.len() - n..].join(".")).find(|end| {
            let named = |module: &&String| *module == end || module.ends_with(&format!(".{end}"));
            all.iter().filter(named).all(|module| chosen.contains(module))
        });
        let end = end.unwrap_or_else(|| module.clone());
        if !names.contains(&end) {
            names.push(end);
        }
    }
    names
}

/// What an adapter has put on a network: parameters of the network's own that belong to it.
type Own = BTreeMap<String, (String, bool)>;

/// A network that an adapter is being put on.
struct Attaching<'a> {
    site: &'a Site<'a>,
    source: &'a mut dyn WeightSource,
    own: Own,
    /// Modules that stood where the adapter does, and those that could have.
    count: usize,
    /// Layers of experts and the like that are named.
    refused: Option<String>,
}

/// Puts an adapter on a network; gives which of its own parameters belong to it.
pub(crate) fn attach(
    network: &mut Network,
    site: &Site<'_>,
    config: &AdapterConfig,
    source: &mut dyn WeightSource,
    seed: u64,
) -> Result<Own> {
    let mut at = Attaching { site, source, own: Own::new(), count: 0, refused: None };
    match config.adapter.stands() {
        Stands::Linears(on) => at.linears(network, on)?,
        Stands::Norms(norms) => at.norms(network, &norms.selection())?,
        Stands::Blocks(settings) => at.blocks(network, settings)?,
        Stands::Attention(settings) => at.attention(network, settings)?,
        Stands::Prompt(_) | Stands::Prefix(_) => at.before_text(network, config, seed)?,
    }
    if at.count == 0 {
        return Err(at.nothing(network, config));
    }
    at.whole_modules(network, &config.modules_to_save)?;
    Ok(at.own)
}

impl Attaching<'_> {
    /// Whether a linear layer is chosen.
    fn takes(&self, selection: &Selection, module: &str) -> Result<bool> {
        let named = match &selection.target_modules {
            Some(targets) => targets.matches(module)?,
            None => false,
        };
        selection.takes(module, named)
    }

    fn linears(&mut self, network: &mut Network, on: &dyn OnLinears) -> Result<()> {
        let (selection, counting) = (on.selection(), self.site.shapes.is_some());
        let dense = |linear: &Linear| (!counting).then(|| plain(linear.weight.dense()));
        let mut table: Option<(String, [usize; 2])> = None;
        let mut pieces = vec![];
        network.pieces(&mut pieces);
        for piece in pieces {
            match piece {
                Piece::Linear(linear) | Piece::Output(linear) => self.linear(linear, on, &selection, dense)?,
                Piece::Linears(linears, span) => match self.site.together(&linears) {
                    Some(fused) if self.takes(&selection, &fused.module)? => {
                        let (module, groups) = (fused.module.clone(), fused.groups);
                        *span = self.span(&module, groups, linears, on)?.or(span.take());
                    }
                    Some(_) => {}
                    None => {
                        for linear in linears {
                            self.linear(linear, on, &selection, dense)?;
                        }
                    }
                },
                Piece::Param(ParamMut::Table(param)) => {
                    let shape = self.site.shape(param.name(), &param.value().dims());
                    table = Some((module_of(param.name()).to_string(), [shape[0], shape[1]]));
                }
                Piece::Place(Place::Embedding(slot)) => {
                    let Some((module, [rows, width])) = table.take() else { continue };
                    if self.takes(&selection, &module)? {
                        let mut make = Make::new(self.source, &module, [width, rows], None);
                        *slot = Some(on.make_embedding(&mut make)?);
                        self.saved_whole(&module);
                        self.count += 1;
                    }
                }
                Piece::Param(ParamMut::Stack(param)) => {
                    let module = module_of(param.name()).to_string();
                    if self.takes(&selection, &module)? {
                        self.refused = Some(module);
                    }
                }
                _ => {}
            }
        }
        self.refuse()?;
        self.restore_whole(network)
    }

    fn linear(
        &mut self,
        linear: &mut Linear,
        on: &dyn OnLinears,
        selection: &Selection,
        dense: impl Fn(&Linear) -> Option<Tensor<2>>,
    ) -> Result<()> {
        let module = self.site.alone(linear);
        if !self.takes(selection, &module)? {
            return Ok(());
        }
        let mut make = Make::new(self.source, &module, self.site.dims(linear), dense(linear));
        linear.adapter = on.make(&mut make)?;
        self.saved_whole(&module);
        self.count += 1;
        Ok(())
    }

    fn span(
        &mut self,
        module: &str,
        groups: usize,
        linears: Vec<&mut Linear>,
        on: &dyn OnLinears,
    ) -> Result<Option<Spanning>> {
        let dims: Vec<[usize; 2]> = linears.iter().map(|linear| self.site.dims(linear)).collect();
        let weight = self.site.shapes.is_none().then(|| {
            let parts: Vec<&Linear> = linears.iter().map(|linear| &**linear).collect();
            plain(Base::of(&parts, groups).weight())
        });
        let all = [dims.iter().map(|d| d[0]).sum(), dims[0][1]];
        let adapter = on.make(&mut Make::new(self.source, module, all, weight))?;
        self.count += 1;
        Ok(adapter.map(|adapter| Spanning { adapter, groups }))
    }

    /// PEFT saves the weights themselves of some modules that have an adapter.
    fn saved_whole(&mut self, module: &str) {
        if SAVED_WHOLE.contains(&module.rsplit('.').next().unwrap_or_default()) {
            self.own.insert(format!("{module}.weight"), (format!("{module}.base_layer.weight"), false));
        }
    }

    /// Takes such weights out of the file where it has them.
    fn restore_whole(&mut self, network: &mut Network) -> Result<()> {
        if self.site.shapes.is_some() {
            return Ok(());
        }
        for mut param in network.params_mut() {
            let Some((file, _)) = self.own.get(param.name()) else { continue };
            let now = param.to_host().to_f32()?;
            let init = Init::Each(&|i| now[i]);
            let want = Want { name: file, shape: &param.shape(), init, purpose: Use::Buffer };
            if let (_, Some(data)) = self.source.take_or(&want, &|i| now[i])? {
                param.update(|numbers| numbers.copy_from_slice(&data));
            }
        }
        Ok(())
    }

    fn refuse(&self) -> Result<()> {
        let Some(module) = &self.refused else { return Ok(()) };
        Err(Error::failed(format!("adapters on experts are not supported, but `target_modules` names {module}"))
            .with_hint("name other layers, e.g. q_proj, k_proj, v_proj and o_proj alone, or train all weights"))
    }

    fn norms(&mut self, network: &mut Network, selection: &Selection) -> Result<()> {
        let mut pieces = vec![];
        network.pieces(&mut pieces);
        for piece in pieces {
            let Piece::Norm(Norm { weight, bias, .. }) = piece else { continue };
            let module = module_of(weight.name()).to_string();
            if !self.takes(selection, &module)? {
                continue;
            }
            for (part, param) in [("weight", Some(weight)), ("bias", bias.as_mut())] {
                if let Some(param) = param {
                    self.whole(ParamMut::Vector(param), format!("{module}.ln_tuning_layers.{part}"))?;
                }
            }
            self.count += 1;
        }
        Ok(())
    }

    /// Trains and saves a parameter of the network itself.
    fn whole(&mut self, mut param: ParamMut<'_>, file: String) -> Result<()> {
        let name = param.name().to_string();
        let shape = self.site.shape(&name, &param.shape());
        let now = if self.site.shapes.is_some() { vec![] } else { param.to_host().to_f32()? };
        let init = Init::Each(&|i| now[i]);
        let (_, data) = self.source.take(&Want { name: &file, shape: &shape, init, purpose: Use::Other })?;
        if let Some(data) = data {
            param.update(|numbers| numbers.copy_from_slice(&data));
        }
        self.own.insert(name, (file, true));
        Ok(())
    }

    /// The modules that are trained whole: those whose names, or the names of what they stand in, end so.
    fn whole_modules(&mut self, network: &mut Network, ends: &[String]) -> Result<()> {
        for end in ends {
            let mut found = false;
            for param in network.params_mut() {
                let name = param.name().to_string();
                let mut module = parent(&name);
                while !module.is_empty() && !module.ends_with(end.as_str()) {
                    module = parent(module);
                }
                if module.is_empty() || self.own.get(&name).is_some_and(|(_, trained)| *trained) {
                    continue;
                }
                let own = module_of(&name);
                if self.site.fused.iter().any(|f| f.parts.iter().any(|part| part.0 == own)) {
                    let message = format!("`modules_to_save` names {own}, which files have together with others");
                    return Err(Error::usage(message).with_hint("norms, embeddings and heads can be trained whole"));
                }
                self.whole(param, name)?;
                found = true;
            }
            if !found {
                return Err(Error::usage(format!("the model has no modules called {end} (`modules_to_save`)")));
            }
        }
        Ok(())
    }

    fn blocks(&mut self, network: &mut Network, settings: &BottleneckSettings) -> Result<()> {
        let d = self.site.spec.stack().d_model;
        let mut pieces = vec![];
        network.pieces(&mut pieces);
        let mut last = String::new();
        for piece in pieces {
            match piece {
                Piece::Linear(linear) => last = self.site.alone(linear),
                Piece::Param(ParamMut::Stack(param)) => last = module_of(param.name()).to_string(),
                Piece::Param(ParamMut::Matrix(param)) => last = module_of(param.name()).to_string(),
                Piece::Place(Place::Block(slot, is_last)) => {
                    let block = last.split('.').find_map(|part| part.parse().ok()).unwrap_or(0);
                    if settings.behind(block, is_last) {
                        *slot = Some(settings.make(&mut Make::new(self.source, parent(&last), [d, d], None))?);
                        self.count += 1;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn attention(&mut self, network: &mut Network, settings: &GatedPromptSettings) -> Result<()> {
        let (d, projects) = (self.site.spec.stack().d_model, self.site.projects());
        let mut pieces = vec![];
        network.pieces(&mut pieces);
        let (mut last, mut slots): (String, Vec<(String, &mut Option<GatedPrompt>)>) = (String::new(), vec![]);
        for piece in pieces {
            match piece {
                Piece::Linear(linear) => last = self.site.alone(linear),
                Piece::Place(Place::Attention(slot)) => slots.push((parent(&last).to_string(), slot)),
                _ => {}
            }
        }
        let wanted = settings.last_layers.unwrap_or(slots.len()).min(slots.len());
        let skipped = slots.len() - wanted;
        for (module, slot) in slots.into_iter().skip(skipped) {
            *slot = Some(settings.make(&mut Make::new(self.source, &module, [d, d], None), projects)?);
            self.count += 1;
        }
        Ok(())
    }

    fn before_text(&mut self, network: &mut Network, config: &AdapterConfig, seed: u64) -> Result<()> {
        let stack = self.site.spec.stack();
        if matches!(network, Network::EncoderDecoder(_)) {
            return Err(self.site.no_place(config));
        }
        let (mut table, counting) = (None, self.site.shapes.is_some());
        let mut pieces = vec![];
        network.pieces(&mut pieces);
        for piece in pieces {
            match piece {
                Piece::Param(ParamMut::Table(param)) if table.is_none() => table = Some(Param::plain(param)),
                Piece::Place(Place::Text(slot)) => {
                    *slot = match config.adapter.stands() {
                        Stands::Prompt(settings) => {
                            let dims = [stack.vocab_size, stack.embedding.width];
                            let weight = table.clone().filter(|_| !counting);
                            Some(Virtual::Prompt(settings.make(&mut Make::new(self.source, "", dims, weight), seed)?))
                        }
                        Stands::Prefix(settings) => {
                            let (slots, width) = self.keys(config)?;
                            let mut make = Make::new(self.source, "", [width, width], None);
                            Some(Virtual::Prefix(settings.make(&mut make, slots, width)?))
                        }
                        _ => None,
                    };
                    self.count += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The places of the attention layers, and the width of their keys.
    fn keys(&self, config: &AdapterConfig) -> Result<(Vec<usize>, usize)> {
        let stack = self.site.spec.stack();
        let layers = stack.blocks.iter().flat_map(|block| &block.layers);
        let (mut slots, mut widths) = (vec![], vec![]);
        for (slot, (_, layer)) in layers.enumerate() {
            match layer {
                LayerSpec::Attention(a) if !a.relative => {
                    slots.push(slot);
                    widths.push(a.n_kv_heads * a.d_head);
                }
                LayerSpec::FeedForward(_) | LayerSpec::Experts(_) | LayerSpec::Switch(_) => {}
                _ => return Err(self.site.no_place(config)),
            }
        }
        let shared = matches!(self.site.spec, Spec::Encoder(spec) if spec.shared.is_some());
        match widths.first() {
            Some(width) if !shared && widths.iter().all(|w| w == width) => Ok((slots, *width)),
            _ => Err(self.site.no_place(config)),
        }
    }

    /// An error for an adapter that stands nowhere.
    fn nothing(&self, network: &mut Network, config: &AdapterConfig) -> Error {
        let found = self.site.inventory(network);
        let (targets, there) = match config.adapter.stands() {
            Stands::Linears(on) => (on.selection().target_modules, shortened(&found.linears, &found.linears)),
            Stands::Norms(norms) => (norms.selection().target_modules, shortened(&found.norms, &found.norms)),
            _ => return self.site.no_place(config),
        };
        let wanted = match targets {
            Some(Targets::Named(names)) if !names.is_empty() => names.join(", "),
            Some(Targets::Pattern(pattern)) => pattern,
            _ => return self.site.no_place(config),
        };
        Error::usage(format!("the model has no layers called {wanted} (`target_modules`)"))
            .with_hint(format!("it has {}", there.join(", ")))
    }
}

/// A tensor without its tape.
fn plain(tensor: Tensor<2>) -> Tensor<2> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_to_ends_that_name_no_others() {
        let all: Vec<String> =
            ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_proj", "h.1.mlp.c_proj"].map(String::from).into();
        let pick = |places: &[usize]| shortened(&places.iter().map(|i| all[*i].clone()).collect::<Vec<_>>(), &all);
        assert_eq!(pick(&[0]), ["c_attn"]);
        assert_eq!(pick(&[2, 3]), ["mlp.c_proj"]);
        assert_eq!(pick(&[2]), ["0.mlp.c_proj"]);
        assert_eq!(pick(&[0, 1, 2, 3]), ["c_attn", "c_proj"]);
    }
}
