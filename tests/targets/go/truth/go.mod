module exoprof.test/truth

go 1.19
