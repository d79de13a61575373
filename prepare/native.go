package prepare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"loadline.dev/loadline/engine"
	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// Compare implements [Converter].
func (w *Workshop) Compare(ctx context.Context, r serving.Recipe, c Conversion, log io.Writer, loaded func(string)) ([]Comparison, error) {
	v, err := w.Trial.run(ctx, Job{Recipe: r, Candidates: c.Candidates, Columns: c.columns}, log, loaded)
	if err != nil && serving.KindOf(err) == serving.Internal && ctx.Err() == nil {
		return nil, fmt.Errorf("the process that compared its answers ended: %s", lastCause(err))
	}
	return v.Comparisons, err
}

// lastCause is the first of the reasons that an error was made of.
func lastCause(err error) string {
	for {
		switch wrapped := err.(type) { //nolint:errorlint // it walks down itself
		case interface{ Unwrap() error }:
			err = wrapped.Unwrap()
		case interface{ Unwrap() []error }:
			err = wrapped.Unwrap()[0]
		default:
			return err.Error()
		}
	}
}

// native finds what of the model runs without Python and answers the same, or
// nil. Where the native engine was asked for, nil is an error.
func (r *run) native(ctx context.Context, recipe *serving.Recipe, m mlmodel.Model, known serving.Recipe) (*serving.Native, error) {
	asked := r.e.Engine == engine.Native
	auto := r.e.Engine == "" || r.e.Engine == engine.Auto
	wanted := asked || auto && r.p.Auto
	if r.p.Native == nil || !wanted {
		return nil, nil
	}
	if found, again := remembered(known); again {
		recipe.Evidence = known.Evidence
		r.phases.cached("convert", "converted before")
		r.phases.cached("compare", strings.Join(known.Evidence, "; "))
		return found, nil
	}
	found, err := r.tryNative(ctx, recipe, m)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && asked {
		return nil, &serving.Error{Op: "engine native", Kind: serving.Invalid, Err: err,
			Fix: "see more with: loadline logs NAME --build; or leave the engine open, and the model is served by Python"}
	}
	if err != nil {
		recipe.Evidence = []string{"not native: " + err.Error()}
		if errors.Is(err, serving.Unavailable) {
			recipe.Evidence[0] = notTried + err.Error()
		}
	}
	return found, nil
}

// notTried starts the evidence of a preparation that lacked what trying needs,
// so that the next one tries.
const notTried = "native engine not tried: "

// remembered is what an earlier preparation of the same revision found, unless
// it is not there any more.
func remembered(known serving.Recipe) (found *serving.Native, again bool) {
	if len(known.Evidence) == 0 || strings.HasPrefix(known.Evidence[0], notTried) {
		return nil, false
	}
	n := known.Launch.Native
	if n == nil {
		return nil, true
	}
	for _, path := range []string{n.Library, n.Model} {
		if _, err := os.Stat(path); err != nil {
			return nil, false
		}
	}
	return n, true
}

// tryNative converts and compares. Its error says why nothing came of it.
func (r *run) tryNative(ctx context.Context, recipe *serving.Recipe, m mlmodel.Model) (found *serving.Native, err error) {
	if err := engine.Convertible(m); err != nil {
		return nil, err
	}
	var c Conversion
	var why error
	_ = r.phases.run("convert", func(say func(serving.Phase)) error {
		if c, why = r.p.Native.Convert(ctx, *recipe, r.log, say); why != nil {
			say(serving.Phase{Note: "not native: " + why.Error()})
			return ctx.Err()
		}
		var names []string
		for _, one := range c.Candidates {
			names = append(names, one.Precision)
		}
		say(serving.Phase{Note: "to ONNX, " + strings.Join(names, " and ")})
		return nil
	})
	if why != nil {
		return nil, why
	}
	python, err := engine.Select(engine.Python, m, r.facts(recipe))
	if err != nil {
		return nil, err
	}
	ask := *recipe
	ask.Launch = python.Launch
	ask.Launch.Reads = r.e.Reads
	_ = r.phases.run("compare", func(say func(serving.Phase)) error {
		found, why = r.compare(ctx, ask, c)
		if found != nil {
			recipe.Evidence = []string{why.Error()}
		}
		say(serving.Phase{Note: why.Error()})
		return ctx.Err()
	})
	if found == nil {
		return nil, why
	}
	return found, nil
}

// compare picks the fastest candidate that agrees. why is the evidence for it,
// or, when there is none, what spoke against each.
func (r *run) compare(ctx context.Context, ask serving.Recipe, c Conversion) (found *serving.Native, why error) {
	loaded, finish := r.compile(ctx, ask.Env)
	all, err := r.p.Native.Compare(ctx, ask, c, r.log, loaded)
	finish()
	if err != nil {
		return nil, fmt.Errorf("its answers could not be compared: %w", err)
	}
	var against []string
	for _, one := range all {
		fmt.Fprintln(r.log, one)
		if one.Row != "" {
			fmt.Fprintf(r.log, "asked: %s\n", one.Row)
		}
		text := one.String()
		if one.Why == "" {
			text += "; that is no faster"
		}
		against = append(against, text)
	}
	if best, ok := Best(all); ok {
		return &best.Native, errors.New(best.String())
	}
	if len(against) == 0 {
		return nil, errors.New("no candidate was compared")
	}
	return nil, errors.New(strings.Join(slices.Compact(against), "; "))
}

// Best is the candidate to use: of those whose answers are equal and faster
// than the Python engine's, the fastest. There may be none.
func Best(all []Comparison) (best Comparison, ok bool) {
	for _, one := range all {
		if one.Why == "" && one.Took < one.Against && (!ok || better(one, best)) {
			best, ok = one, true
		}
	}
	return best, ok
}

// better prefers the one that is clearly faster, then the one whose labels turn
// where the model's do, then the one with more answers that are MLflow's to the
// last digit, then float64.
func better(a, b Comparison) bool {
	if a.Took > 2*b.Took || b.Took > 2*a.Took {
		return a.Took < b.Took
	}
	if a.Turned != b.Turned {
		return a.Turned < b.Turned
	}
	if a.Exact != b.Exact {
		return a.Exact > b.Exact
	}
	return a.Native.Precision > b.Native.Precision
}
