module loadline.dev/bench

go 1.26.0

require loadline.dev/loadline v0.0.0

replace loadline.dev/loadline => ../
