module exoprof.test/cpu

go 1.21
