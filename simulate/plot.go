package simulate

import (
	"bytes"
	"fmt"
	"math"
	"time"
)

// A Plot gathers rows for a picture: demand, replicas, the optimum, and who was
// late, over time.
type Plot struct {
	Title string
	Start time.Duration // of the optimum

	first  int64
	needed []int
	rows   []plotRow
}

type plotRow struct{ ready, size, late, arrivals int32 }

// Write adds a row.
func (p *Plot) Write(r Row) {
	if len(p.rows) == 0 {
		p.first = r.Second
	}
	p.needed = append(p.needed, r.Needed)
	p.rows = append(p.rows, plotRow{int32(r.Ready), int32(r.Ready + r.Starting), int32(r.Late), int32(r.Arrivals)})
}

// Layout of the picture, in its own units.
const (
	plotWidth, plotHeight = 1200, 620
	plotLeft, plotRight   = 64, 20
	plotTop, plotSplit    = 64, 440 // the upper panel
	plotLower, plotBottom = 480, 580
)

// SVG draws it. A column stands for as many seconds as fit: of demand, replicas
// and optimum it shows the most, of the late ones their share.
func (p *Plot) SVG() []byte {
	columns := min(len(p.rows), plotWidth-plotLeft-plotRight)
	held := Held(p.needed, p.Start)
	need, keep, ready, size, late := make([]float64, columns), make([]float64, columns), make([]float64, columns), make([]float64, columns), make([]float64, columns)
	top, worst := 1.0, 0.0
	for c := range columns {
		from, to := c*len(p.rows)/columns, (c+1)*len(p.rows)/columns
		arrivals := 0.0
		for s := from; s < to; s++ {
			r := p.rows[s]
			need[c] = max(need[c], float64(p.needed[s]))
			keep[c] = max(keep[c], float64(held[s]))
			ready[c] = max(ready[c], float64(r.ready))
			size[c] = max(size[c], float64(r.size))
			late[c] += float64(r.late)
			arrivals += float64(r.arrivals)
		}
		late[c] = min(100, 100*late[c]/max(1, arrivals))
		top, worst = max(top, size[c], keep[c]), max(worst, late[c])
	}
	top = niceTop(top)
	worst = max(1, worst)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/><text x="%d" y="24" font-size="16">%s</text>`+"\n", plotWidth, plotHeight, plotLeft, escape(p.Title))
	legend := []struct{ text, colour string }{{"demand, in replicas", "#c8d4e3"}, {"optimum holds", "#2a9d5c"}, {"ready", "#1f4e9c"}, {"ready and starting", "#e08a1e"}, {"late, % of arrivals", "#c62828"}}
	for i, l := range legend {
		fmt.Fprintf(&b, `<rect x="%d" y="36" width="14" height="10" fill="%s"/><text x="%d" y="46">%s</text>`+"\n", plotLeft+i*190, l.colour, plotLeft+i*190+20, l.text)
	}
	for i := range 5 {
		v := top * float64(i) / 4
		y := scaleY(v, top, plotTop, plotSplit)
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.4g</text>`+"\n", plotLeft, y, plotWidth-plotRight, plotLeft-8, y+4, v)
	}
	fmt.Fprintf(&b, `<path d="M%d %dH%d" stroke="#ddd"/><text x="%d" y="%d" text-anchor="end">0</text><text x="%d" y="%d" text-anchor="end">%.3g %%</text>`+"\n",
		plotLeft, plotBottom, plotWidth-plotRight, plotLeft-8, plotBottom, plotLeft-8, plotLower+6, worst)
	for i := range 6 {
		s := len(p.rows) * i / 5
		x := plotLeft + (plotWidth-plotLeft-plotRight)*i/5
		anchor := map[int]string{0: "start", 5: "end"}[i]
		if anchor == "" {
			anchor = "middle"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", x, plotBottom+20, anchor, time.Duration(s)*time.Second)
	}
	p.area(&b, need, top, plotTop, plotSplit, "#c8d4e3")
	p.line(&b, size, top, "#e08a1e", 1)
	p.line(&b, keep, top, "#2a9d5c", 1)
	p.line(&b, ready, top, "#1f4e9c", 1.4)
	p.area(&b, late, worst, plotLower, plotBottom, "#c62828")
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (p *Plot) area(b *bytes.Buffer, v []float64, top float64, upper, lower int, colour string) {
	if len(v) == 0 {
		return
	}
	fmt.Fprintf(b, `<path fill="%s" d="M%d %d`, colour, plotLeft, lower)
	steps(b, v, top, upper, lower, "L")
	fmt.Fprintf(b, `V%dZ"/>`+"\n", lower)
}

func (p *Plot) line(b *bytes.Buffer, v []float64, top float64, colour string, width float64) {
	if len(v) == 0 {
		return
	}
	fmt.Fprintf(b, `<path fill="none" stroke="%s" stroke-width="%g" d="`, colour, width)
	steps(b, v, top, plotTop, plotSplit, "M")
	b.WriteString(`"/>` + "\n")
}

// steps draws levels that change at once, and leaves out what does not change.
func steps(b *bytes.Buffer, v []float64, top float64, upper, lower int, first string) {
	wide := float64(plotWidth-plotLeft-plotRight) / float64(len(v))
	fmt.Fprintf(b, "%s%d %.1f", first, plotLeft, scaleY(v[0], top, upper, lower))
	for i := 1; i < len(v); i++ {
		if v[i] != v[i-1] {
			fmt.Fprintf(b, "H%.1fV%.1f", plotLeft+wide*float64(i), scaleY(v[i], top, upper, lower))
		}
	}
	fmt.Fprintf(b, "H%d", plotWidth-plotRight)
}

func scaleY(v, top float64, upper, lower int) float64 {
	return float64(lower) - v/top*float64(lower-upper)
}

// niceTop is the next larger number of which the quarters are easy to read.
func niceTop(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 4, 6, 8, 10} {
		if v <= m*unit {
			return max(4, m*unit)
		}
	}
	return 10 * unit
}

func escape(text string) string {
	var b bytes.Buffer
	for _, r := range text {
		switch r {
		case '<':
			b.WriteString("&lt;")
		case '&':
			b.WriteString("&amp;")
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
