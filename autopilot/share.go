package autopilot

import "slices"

// An Ask is what one entity's pilot wants of a machine that several share.
type Ask struct {
	Entity string  // names it, and settles ties
	Want   int     // replicas
	Have   int     // replicas now, with those that start
	Floor  int     // of Want: its min, served before everyone's rest
	Weight float64 // declared; zero is one
	Size   float64 // of one replica, in the unit of the machine's room; zero is one

	Given int // what it gets; set by [Divide]
}

// Divide gives every ask its share of room, and reports whether somebody got
// less than wanted. Where all wishes fit each is granted whole. Else floors come
// first, and the rest goes by need and weight: replica by replica to whoever
// has the least for its weight, so that a small wish is met before a large one
// grows (max-min fairness). What divides evenly but not exactly goes to whoever
// holds it already: a share moves only when the wishes do, and two entities
// never pass one replica back and forth.
//
// It orders asks in place; scratch space aside it allocates nothing.
func Divide(room float64, asks []Ask) (short bool) {
	need := 0.0
	for i := range asks {
		a := &asks[i]
		if a.Weight <= 0 {
			a.Weight = 1
		}
		if a.Size <= 0 {
			a.Size = 1
		}
		a.Want = max(a.Want, 0)
		need += float64(a.Want) * a.Size
		a.Given = a.Want
	}
	if need <= room {
		return false
	}
	left := room
	for i := range asks {
		a := &asks[i]
		a.Given = 0
		for a.Given < min(a.Floor, a.Want) && a.Size <= left+hair {
			a.Given++
			left -= a.Size
		}
	}
	level := fairLevel(left, asks)
	for i := range asks {
		a := &asks[i]
		fair := min(a.Want, max(a.Given, int(level*a.Weight/a.Size+hair)))
		left -= float64(fair-a.Given) * a.Size
		a.Given = fair
	}
	// The remainders, a replica each: those who hold it already come first, then
	// those who have least for their weight.
	slices.SortFunc(asks, func(a, b Ask) int {
		switch holdsA, holdsB := a.Have > a.Given, b.Have > b.Given; {
		case holdsA != holdsB && holdsA:
			return -1
		case holdsA != holdsB:
			return 1
		}
		switch x, y := float64(a.Given+1)*a.Size/a.Weight, float64(b.Given+1)*b.Size/b.Weight; {
		case x < y:
			return -1
		case x > y:
			return 1
		case a.Entity < b.Entity:
			return -1
		case a.Entity > b.Entity:
			return 1
		}
		return 0
	})
	for i := range asks {
		if a := &asks[i]; a.Given < a.Want && a.Size <= left+hair {
			a.Given++
			left -= a.Size
		}
	}
	return true
}

const hair = 1e-9

// fairLevel is the room per unit of weight up to which everyone may fill, so
// that with floors and wishes all of left is used: found by halving, since the
// sum only grows with the level.
func fairLevel(left float64, asks []Ask) float64 {
	low, high := 0.0, 0.0
	for _, a := range asks {
		high = max(high, float64(a.Want)*a.Size/a.Weight)
	}
	for range 60 {
		level, used := (low+high)/2, 0.0
		for _, a := range asks {
			fill := min(float64(a.Want)*a.Size, level*a.Weight)
			used += max(0, fill-float64(a.Given)*a.Size)
		}
		if used <= left {
			low = level
		} else {
			high = level
		}
	}
	return low
}
