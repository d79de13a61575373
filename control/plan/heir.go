package plan

import "loadline.dev/loadline/serving"

// Predecessors says, by name, which entity of the old config each entity of the
// new one follows, and so whose demand it will carry: the entity of the same
// name, else one of the same lineage, else, with one entity before and after,
// that one. An entity has at most one heir; an entity without a predecessor is
// absent.
func Predecessors(old, next serving.Config) map[string]serving.Entity {
	heirs := map[string]serving.Entity{}
	taken := map[string]bool{}
	pass := func(fits func(was, is serving.Entity) bool) {
		for _, is := range next.Entities {
			if _, has := heirs[is.Name]; has {
				continue
			}
			for _, was := range old.Entities {
				if !taken[was.Name] && fits(was, is) {
					heirs[is.Name], taken[was.Name] = was, true
					break
				}
			}
		}
	}
	pass(func(was, is serving.Entity) bool { return was.Name == is.Name })
	pass(func(was, is serving.Entity) bool { return was.Lineage != "" && was.Lineage == is.Lineage })
	if len(old.Entities) == 1 && len(next.Entities) == 1 {
		pass(func(_, _ serving.Entity) bool { return true })
	}
	return heirs
}
