package main

// names calls functions with every kind of name: generic ones, closures, method values, wrappers,
// inlined ones.
func names() {
	b := &box[float64]{}
	var worker works = embeds{&inner{}}
	method := (&inner{}).valued
	for {
		generic[int](50)
		generic[string](50)
		b.boxed(50)
		closure(50)()
		method(50)
		worker.embedded(50)
		inlines(50)
	}
}

//go:noinline
func generic[T any](n int) {
	var zero T
	use(zero)
	burn(n)
	sink.Add(1)
}

func use(any) {}

type box[T any] struct{ value T }

//go:noinline
func (b *box[T]) boxed(n int) {
	burn(n)
	sink.Add(1)
}

//go:noinline
func closure(n int) func() {
	return func() {
		burn(n)
		sink.Add(1)
	}
}

type works interface{ embedded(n int) }
type embeds struct{ *inner }
type inner struct{ _ int }

//go:noinline
func (i *inner) valued(n int) {
	burn(n)
	sink.Add(1)
}

//go:noinline
func (i *inner) embedded(n int) {
	burn(n)
	sink.Add(1)
}

func inlines(n int)  { inlined1(n) }
func inlined1(n int) { inlined2(n) }
func inlined2(n int) {
	burn(n)
	sink.Add(1)
}
