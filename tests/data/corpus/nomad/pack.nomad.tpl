job [[ var "n" . ]] {
  group "g" { task "t" { config { image = "img.example/pack:1" } } }
}
