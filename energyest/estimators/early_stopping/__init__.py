"""Where will an `EarlyStopping` end a training, and what has it cost by then?"""
