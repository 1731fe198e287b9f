package converge

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cqrsync/cqrsync/internal/content"
)

// kept is what a replica keeps of the models whose content is compared.
type kept struct {
	keepers map[string]*keeper

	mu     sync.Mutex
	unsent map[string]map[string]bool // by model: fields, and columns of relations, as relation.column
}

// keep notes the models whose content is compared.
func (r *Reporter) keep(models []string) error {
	r.kept.keepers, r.kept.unsent = map[string]*keeper{}, map[string]map[string]bool{}
	var errs []error
	for _, model := range models {
		shape, err := r.replica.Model(model)
		if err == nil {
			r.kept.keepers[model], err = newKeeper(shape)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the Content of model %q: %w", model, err))
		}
		r.kept.unsent[model] = map[string]bool{}
	}
	return errors.Join(errs...)
}

// fieldsOf are the fields whose content is compared; nil for none.
func (k *kept) fieldsOf(model string) []keptField {
	keeper := k.keepers[model]
	if keeper == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	fields := []keptField{} // not nil: that is no content
	for _, f := range keeper.fields {
		if k.unsent[model][f.Name] {
			continue
		}
		if f.Columns != nil {
			f.Columns = slices.DeleteFunc(slices.Clone(f.Columns), func(column string) bool {
				return k.unsent[model][f.Name+"."+column]
			})
		}
		fields = append(fields, f)
	}
	return fields
}

// learnUnsent notes what the master does not send, so that it is not compared from now on: else all
// would seem to differ, every time.
func (v *verifier) learnUnsent(model string, fields []keptField, words []string) {
	var fresh []string
	v.kept.mu.Lock()
	defer v.kept.mu.Unlock()
	note := func(name string) {
		if !v.kept.unsent[model][name] {
			v.kept.unsent[model][name] = true
			fresh = append(fresh, name)
		}
	}
	for i, f := range fields {
		if words[i] == content.NoHash {
			note(f.Name)
		}
		mask, _, isMask := strings.Cut(words[i], ".")
		for n, column := range f.Columns {
			if isMask && n < len(mask) && mask[n] == '0' {
				note(f.Name + "." + column)
			}
		}
	}
	if len(fresh) > 0 {
		v.log.Warn("the master does not send what is kept here of a model, at least not of every "+
			"instance: it is not compared", "model", model, "fields", fresh)
	}
}
