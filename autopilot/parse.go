package autopilot

import (
	"fmt"
	"strconv"
	"strings"

	"loadline.dev/loadline/serving"
)

// Parse reads a policy's rule as people write it: autopilot, published:0.70 or
// static:4. The bounds and times of the result are zero.
func Parse(text string) (Policy, error) {
	name, value, has := strings.Cut(text, ":")
	var p Policy
	var err error
	switch {
	case name == "autopilot" && !has:
		return p, nil
	case name == "published" && has:
		p.Rule = Published
		p.Share, err = strconv.ParseFloat(value, 64)
	case name == "static" && has:
		p.Rule = Static
		p.Size, err = strconv.Atoi(value)
	default:
		err = reason("there is no such policy")
	}
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		return Policy{}, &serving.Error{Op: "read policy", Subject: strconv.Quote(text), Kind: serving.Invalid, Err: err,
			Fix: "use autopilot, published:0.70 or static:4"}
	}
	return p, nil
}

// String is how the policy's rule is written.
func (p Policy) String() string {
	switch p.Rule {
	case Published:
		return fmt.Sprintf("published:%.2f", p.Share)
	case Static:
		return fmt.Sprintf("static:%d", p.Size)
	}
	return "autopilot"
}
